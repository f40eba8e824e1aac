"""`caspen-sync check`: each thing tested by name, with how to mend it.

    config      which settings there are, and where they come from
    files       each account's token, as far as this host can tell
    database    the connection, and what can be looked at over it: the rest of this list
    schema      migrations, triggers, versions of the workers
    rights      what this login may do, and the three roles
    server      durability, connections, the clock
    upkeep      old snapshots and dead rows, which make claims slower
    accounts    changes that nobody works for
    paused      accounts that nothing is sent for
    woken       changes that no worker will come by
    api         the API's address, and what it says to a token
    listen      our own address

A look is a function that returns findings. It never raises for what it finds, and nothing of it is written down.
"""

from worker.check.all import check
from worker.check.finding import Finding, Verdict, exit_code

__all__ = ["Finding", "Verdict", "check", "exit_code"]
