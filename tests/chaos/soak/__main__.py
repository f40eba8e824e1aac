"""`python -m tests.chaos.soak`; see `soaking`."""

import sys

from tests.chaos.soak.soaking import main

sys.exit(main())
