"""The environment of the demo, the tests and the emulators.

They define it. If they inherited it, settings that people have on their machines, such as a proxy,
a profile of AWS or FORCE_COLOR, would change what they do.

Import only small modules here, because this runs before the others are imported.
"""

import os
from collections.abc import Mapping
from shlex import quote

LOOPBACK = "127.0.0.1"
WITHOUT_PROXY = f"{LOOPBACK},localhost"

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


def direct_connections(environment: Mapping[str, str]) -> dict[str, str]:
    """Return variables that make programs connect to this machine without the user's proxy.

    If no proxy is set, there are none: on macOS, they would turn off the system's proxies.
    """
    # Names in lower case come last, and so they win, as in most programs.
    settings = {name.lower(): environment[name] for name in sorted(environment)}
    if not any(settings.get(name) for name in ("http_proxy", "https_proxy", "all_proxy")):
        return {}
    hosts = settings.get("no_proxy", "")
    if hosts != "*" and not hosts.startswith(WITHOUT_PROXY):
        hosts = f"{WITHOUT_PROXY},{hosts}".rstrip(",")
    return {"NO_PROXY": hosts, "no_proxy": hosts}


def direct_export() -> str:
    """Return a line to paste, so that curl connects to this machine without the user's proxy."""
    hosts = direct_connections(INHERITED).get("no_proxy")
    return f"  export NO_PROXY={quote(hosts)} no_proxy={quote(hosts)}\n" if hosts else ""
