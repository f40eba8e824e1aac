"""The parts that the units of service and cron job have in common: how it starts, as whom, and what it may do."""

from __future__ import annotations

from collections.abc import Sequence

from worker.unit.credentials import Credential
from worker.unit.installation import HOMES
from worker.unit.plan import Plan
from worker.unit.quoting import line, program, word

USER = "caspen-sync"

# `systemd-analyze security` rates it; what is missing is what a client of two servers cannot do without.
_HARDENING = """\
CapabilityBoundingSet=
DevicePolicy=closed
KeyringMode=private
LockPersonality=yes
MemoryDenyWriteExecute=yes
NoNewPrivileges=yes
PrivateDevices=yes
PrivateMounts=yes
PrivateTmp=yes
PrivateUsers=yes
ProcSubset=pid
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProtectSystem=strict
RemoveIPC=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
UMask=0077"""


def start(plan: Plan, *arguments: str) -> str:
    """The command, with the configuration that systemd hands over."""
    installation = plan.installation
    # The colon keeps systemd from looking for variables in the paths.
    colon = ":" if any("$" in part for part in installation.command) else ""
    first, *others = (*installation.command, *arguments)
    command = " ".join((program(first), *map(word, others)))
    lines = [f"ExecStart={colon}{command} --config %d/config.toml"]
    if installation.folder:
        lines.append(f"WorkingDirectory={line(str(installation.folder))}")
    return "\n".join(lines)


def credentials(plan: Plan, unit: str, handed_over: Sequence[Credential]) -> str:
    """The files that systemd reads for it. `unit`: the name of the service. `handed_over`: those beside the
    configuration."""
    lines = [
        "# systemd (251 or later) reads these files whenever it starts the service, whose user needs no right to them.",
        f"# It does not read them again at a reload: after a change of one, systemctl restart {unit}.",
        f"LoadCredential=config.toml:{line(str(plan.config))}",
    ]
    for one in handed_over:
        lines += [f"LoadCredential={one.name}:{line(str(one.file))}", f"Environment={one.variable}=%d/{one.name}"]
    if any(one.setting.endswith(".token_file") for one in handed_over):
        lines += [
            "# Without its two lines, a token is read from the file itself, by that user, and again when it changes."
        ]
    if not plan.settings.database.dsn.get_secret_value():
        lines += [
            "# While database.dsn is empty, such variables say where the database is:",
            "# Environment=PGHOST=db.example PGDATABASE=clinic",
        ]
    return "\n".join(lines)


def confinement(plan: Plan) -> str:
    """Its user, and what that may see and do."""
    in_a_home = any(path.is_relative_to(home) for path in plan.shown for home in HOMES)
    lines = [
        "# A user that is there only while this runs, unless there is one of that name.",
        f"User={USER}",
        "DynamicUser=yes",
        "",
        "# systemd-analyze security has more on each.",
        _HARDENING,
        f"ProtectHome={'tmpfs' if in_a_home else 'yes'}",
    ]
    if plan.shown:
        lines += ["# What it needs of places where a service sees nothing otherwise."]
        lines += [f"BindReadOnlyPaths={word(str(path))}" for path in plan.shown]
    return "\n".join(lines)
