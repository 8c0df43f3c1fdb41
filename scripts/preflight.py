"""Check the settings of a deployment before the build: credentials, region and parameters."""

import argparse
import difflib
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import boto3
from botocore.exceptions import NoRegionError

from scripts.stacks import UsageError, report_errors

TEMPLATE = Path(__file__).parents[1] / "template.yaml"


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the options of `sam deploy`; return the exit code: 0 all is well, 1 not."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--profile", help="as for sam deploy, like the other options")
    parser.add_argument("--region")
    parser.add_argument("--guided", action="store_true", help="sam asks for the region")
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
    section = re.split(r"^\w+:\n", TEMPLATE.read_text(), flags=re.MULTILINE)[1]
    known = re.findall(r"^  (\w+):$", section, re.MULTILINE)
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
