"""Bodies and files packed the same at any time, since a test's name may hold them."""

from __future__ import annotations

import gzip
from functools import partial

# Without the time of day, which gzip puts into its header.
gzipped = partial(gzip.compress, mtime=0)
