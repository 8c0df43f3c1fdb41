"""The environment of the demo, the tests and the emulators.

They define it. If they inherited it, settings that people have on their machines, such as a proxy,
a profile of AWS or FORCE_COLOR, would change what they do.

Import only small modules here, because this runs before the others are imported.
"""

import os
from shlex import quote

from cli.proxies import WITHOUT_PROXY, direct_connections

# What programs need to run, and what the user wants to see on a terminal: NO_COLOR and TERM. The
# Makefile sets SAM, MINISTACK and SAM_CLI_TELEMETRY. CI makes Hypothesis repeatable.
KEPT = (
    *("CI", "HOME", "LD_LIBRARY_PATH", "MINISTACK", "NO_COLOR", "PATH", "SAM", "SAM_CLI_TELEMETRY"),
    *("TERM", "TMPDIR", "USER"),
)
DEFINED = {
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "COLUMNS": "80",
    # On macOS, Python also reads the system's proxies, unless one of these is set.
    "NO_PROXY": WITHOUT_PROXY,
    "no_proxy": WITHOUT_PROXY,
    "PYTHONUTF8": "1",
}

# The user's own environment, for the build. It downloads libraries, which may need a proxy.
INHERITED = dict(os.environ)


def isolated() -> dict[str, str]:
    """Return the environment for a process."""
    return {name: INHERITED[name] for name in KEPT if name in INHERITED} | DEFINED


def isolate() -> None:
    """Replace the environment of this process.

    Call it before the imports of other libraries. Some read the environment when they are imported.
    """
    os.environ.clear()
    os.environ.update(isolated())


def direct_export() -> str:
    """Return a line to paste, so that curl connects to this machine without the user's proxy."""
    hosts = direct_connections(INHERITED).get("no_proxy")
    return f"  export NO_PROXY={quote(hosts)} no_proxy={quote(hosts)}\n" if hosts else ""
