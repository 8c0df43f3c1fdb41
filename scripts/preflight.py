"""Check the settings of a deployment before the build: credentials, region and parameters."""

import argparse
import difflib
import re
import sys
from collections.abc import Iterable, Sequence

import boto3
from botocore.exceptions import NoRegionError

from emulators.template import read_template
from scripts.stacks import UsageError, report_errors


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the options of `sam deploy`; return the exit code: 0 all is well, 1 not."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="The options are those of sam deploy. Its other options are ignored.",
        allow_abbrev=False,
    )
    parser.add_argument("--profile")
    parser.add_argument("--region")
    parser.add_argument("--guided", action="store_true")  # then sam asks for the region
    parser.add_argument("--parameter-overrides", nargs="*", default=[])
    options, _ = parser.parse_known_args(arguments)
    return report_errors("make deploy", lambda: _check(options))


def _check(options: argparse.Namespace) -> int:
    _check_parameters(options.parameter_overrides)
    session = boto3.Session(profile_name=options.profile, region_name=options.region)
    if not session.region_name:
        if options.guided:
            return 0
        raise NoRegionError
    session.client("sts").get_caller_identity()
    return 0


def _check_parameters(overrides: Iterable[str]) -> None:
    """Refuse unknown names, because SAM ignores them.

    Raises:
        UsageError: the template has no such parameter.

    """
    known = read_template()["Parameters"]
    for override in overrides:
        # Either Name=Value, or ParameterKey=Name,ParameterValue=Value.
        for names in re.findall(r"(?:^|\s)(?:ParameterKey=(\w+)|(\w+)=)", override):
            name = "".join(names)
            if name not in known:
                similar = difflib.get_close_matches(name, known, n=1)
                hint = f" Did you mean {similar[0]}?" if similar else ""
                raise UsageError(f"There is no parameter {name!r}.{hint}")


if __name__ == "__main__":
    sys.exit(main())
