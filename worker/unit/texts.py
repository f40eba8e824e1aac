"""The units and the crontab line themselves."""

from __future__ import annotations

from worker.unit.plan import Plan
from worker.unit.quoting import shell
from worker.unit.sections import USER, confinement, credentials, start

ONCE_RUNTIME_S = 50


def service(plan: Plan) -> str:
    """caspen-sync.service: works until it is stopped."""
    return f"""\
# Save as /etc/systemd/system/caspen-sync.service:
#     caspen-sync unit service > /etc/systemd/system/caspen-sync.service
#     systemctl daemon-reload && systemctl enable --now caspen-sync

[Unit]
Description=caspen-sync: carries changes from Postgres to the Caspen API
Wants=network-online.target
After=network-online.target postgresql.service
# A database that is away at boot does not end it for good.
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
{start(plan, "run")}
ExecReload=/bin/kill -HUP $MAINPID
WatchdogSec=60
Restart=always
RestartSec=5
TimeoutStartSec=90
# The requests on the wire end within api.timeout_s.
TimeoutStopSec={plan.stop_s}

{credentials(plan, "caspen-sync", plan.service_credentials)}

{confinement(plan)}

[Install]
WantedBy=multi-user.target
"""


def once(plan: Plan) -> str:
    """caspen-sync-once.service: what the timer starts."""
    return f"""\
# Save as /etc/systemd/system/caspen-sync-once.service, beside its timer:
#     caspen-sync unit service --once > /etc/systemd/system/caspen-sync-once.service
#     caspen-sync unit timer > /etc/systemd/system/caspen-sync-once.timer
#     systemctl daemon-reload && systemctl enable --now caspen-sync-once.timer

[Unit]
Description=caspen-sync, once: carries changes from Postgres to the Caspen API
Wants=network-online.target
After=network-online.target postgresql.service

[Service]
Type=oneshot
{start(plan, "run", "--once", "--max-runtime", str(ONCE_RUNTIME_S))}
# What is left is the next run's. Parked changes (65), and whatever else a person has to see to, are a failure.
SuccessExitStatus=75
# It ends within {ONCE_RUNTIME_S} s.
TimeoutStartSec={ONCE_RUNTIME_S + plan.stop_s}

{credentials(plan, "caspen-sync-once", plan.credentials)}

{confinement(plan)}
"""


def timer() -> str:
    """caspen-sync-once.timer: starts a run each minute, unless one is still at it."""
    return """\
# Save as /etc/systemd/system/caspen-sync-once.timer, beside its service:
#     caspen-sync unit service --once > /etc/systemd/system/caspen-sync-once.service
#     caspen-sync unit timer > /etc/systemd/system/caspen-sync-once.timer
#     systemctl daemon-reload && systemctl enable --now caspen-sync-once.timer

[Unit]
Description=caspen-sync, once a minute

[Timer]
OnCalendar=minutely
AccuracySec=1s
# Several hosts need not come in the same instant.
RandomizedDelaySec=2s
Persistent=false

[Install]
WantedBy=timers.target
"""


def cron(plan: Plan) -> str:
    """A line of /etc/cron.d."""
    options = ("run", "--once", "--max-runtime", str(ONCE_RUNTIME_S), "--config", str(plan.config))
    command = " ".join(shell(part) for part in (*plan.installation.command, *options))
    folder = plan.installation.folder
    return f"""\
# Save as /etc/cron.d/caspen-sync, where cron finds it by itself:
#     caspen-sync unit cron > /etc/cron.d/caspen-sync
# The user {USER} has to exist, and to be able to read the configuration and the token files.
* * * * * {USER} {f"cd {shell(str(folder))} && " if folder else ""}{command}
"""
