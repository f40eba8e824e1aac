"""What --help says of each command."""

EPILOG = """\
exit codes: 0 nothing left to do; 64 bad usage; 65 drained, but this run parked a change; 69 database or API out of
reach; 70 a fault of caspen-sync itself; 75 work is left (backing off, or out of time); 77 an account is paused because
the API refused its token; 78 bad configuration
"""

MIGRATE = """\
Brings the schema caspen_sync up to date. Safe to run twice, or from two hosts at once; refuses a schema that is newer
than this program.
"""
RUN = """\
Sends pending changes to the API and writes the answers back. Without --once it is the service: it works until SIGTERM
or SIGINT, which let requests in flight finish and give the rest back; a second signal stops at once.
"""
BACKFILL = """\
Puts the changes of a file or a query into the backfill lane, which uses only what accounts.NAME.live_reserve leaves
of the budget, and works them off with a progress bar. Every line is validated before anything is loaded. The same
command again, or after a kill, adds what is missing and nothing twice. A field that a newer change has set is left
out. What was loaded: caspen-sync backfill list, status NAME, cancel NAME.
"""
BACKFILL_EPILOG = """\
exit codes: 0 all of it is synced, or with --no-wait loaded; 64 bad usage; 65 lines are no valid changes, or a change
of it was parked; 66 the file or the query cannot be read; 69 database or API out of reach; 70 a fault of caspen-sync
itself; 75 work is left (interrupted, or the account is paused by hand); 77 an account is paused because the API
refused its token; 78 bad configuration
"""
BACKFILL_ACTIONS = """\
What was loaded by caspen-sync backfill FILE: which there are, how far they are, and an end to one.
"""
BACKFILL_LIST = """\
The backfills, newest first, each with what it loaded and what is still to do.
"""
BACKFILL_STATUS = """\
How far a backfill is, and when it will be done. --left-out lists the fields that were left out for newer changes.
"""
BACKFILL_CANCEL = """\
Discards the changes of a backfill that are still pending, and stops whoever loads it. What is on the wire is waited
for; what was synced stays. In a terminal, the number of changes is asked back.
"""
STATUS = """\
Whether everything is synced, and if not, what it is waiting for. Then how each account is: what is pending and for how
long, what is on the wire, backing off and parked, the budget, and whether it is paused, why, and until when; and which
workers are alive.
"""
PARKED = """\
Changes that the API refused, or that break its contract, wait here for a person. The others of their appointment go on.
"""
PARKED_LIST = """\
The parked changes, oldest first, without their bodies.
"""
PARKED_SHOW = """\
One parked change with everything about it. Prints its body and the API's words to it: mind who looks on.
"""
PARKED_RETRY = """\
Makes parked changes pending again, each at its old place in the order: fields that newer changes of the same
appointment have set since are left out, and that is said. In a terminal, the number of changes is asked back.
"""
PARKED_DISCARD = """\
Gives parked changes up: they are never sent. In a terminal, the number of changes is asked back.
"""
PARKED_EDIT = """\
Replaces what a parked change says and makes it pending again, as retry does. The new body comes from FILE, from
standard input, or, in a terminal, from your $EDITOR; never from an argument, which the list of processes would show.
"""
ATTEMPTS = """\
The requests that were made for one appointment, newest first: when, what came of it, and which changes it carried.
"""
PAUSE = """\
Stops an account in every process until it is resumed. Requests on the wire finish; changes are taken in and wait.
"""
RESUME = """\
Lets an account go on, whatever it is paused for: by hand, or because the API refused it, rejected everything, or was
down.
"""
CHECK = """\
Looks at everything that the worker needs, from the configuration to the listen address, and says of each thing whether
it is well or how to mend it. Writes nothing, holds up nobody, and takes 20 s at most. --token asks the API as well, and
takes a slot of the budget for it.
"""
CHECK_EPILOG = """\
exit codes: 0 nothing failed, though there may be warnings; else that of the worst that did: 78 configuration, schema or
rights, 69 database or API out of reach, 77 the API refused a token; 64 bad usage; 70 a fault of caspen-sync itself
"""
PRUNE = """\
Deletes finished changes and attempts that are older than worker.retention_days, in small steps. What is pending or
parked stays, and its attempts with it. The service does so by itself every hour; this is for where only cron jobs run.
"""
UNIT = """\
Prints what starts caspen-sync on this host, with the paths of this installation and of the configuration that is found.
What may keep it from working is said on stderr.
"""
UNIT_SERVICE = """\
The service, hardened; systemd hands configuration and tokens over. Its first lines say where to save it.
"""
UNIT_TIMER = """\
The timer that starts the unit of unit service --once each minute: cron's job, done by systemd.
"""
UNIT_CRON = """\
A line for /etc/cron.d that starts run --once each minute.
"""
GRAFANA = """\
Prints a dashboard for Grafana or alerting rules for Prometheus, made for the metrics that the service shows at
http.listen, and cron jobs by run --once --textfile. Needs no configuration and no database.
"""
GRAFANA_DASHBOARD = """\
A dashboard for Grafana 10 or later. Import it under Dashboards > New > Import; it asks which Prometheus at its top.
caspen-sync grafana dashboard > caspen-sync.json
"""
GRAFANA_ALERTS = """\
Alerting rules for Prometheus 2.26 or later; each says what it means and what to do. Save them where rule_files of
prometheus.yml finds them. caspen-sync grafana alerts > caspen-sync.rules.yml
"""
SANDBOX = """\
A stand-in for the API that follows its contract, throttle and faults included. Point api.base_url at the address that
it prints.
"""
DEMO = """\
Starts a Postgres of its own and the sandbox, writes some hundred changes and works them off, with a short rate window
so that it takes well under a minute. Leaves nothing behind.
"""
