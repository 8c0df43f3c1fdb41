"""Connect to this machine, such as to the emulator of `make serve`, without the user's proxy.

Import nothing heavy here, because `emulators.environment` runs before other imports.
"""

from collections.abc import Mapping

LOOPBACK = "127.0.0.1"
WITHOUT_PROXY = f"{LOOPBACK},localhost"


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
