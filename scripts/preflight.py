"""Check the settings of a deployment before the build: credentials, region and parameters."""

import argparse
import difflib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any

import boto3
from botocore.exceptions import NoRegionError

from cli.errors import CommandError
from cli.runner import report
from cli.stacks import BucketAccessError, check_bucket
from cli.template import read_template

NONE = "none"  # the value that turns an optional feature off

# Name=Value, or the AWS CLI's ParameterKey=Name,ParameterValue=Value. No parameter needs the
# excluded characters, and with them, SAM can read something else than what was meant.
_PARAMETER = re.compile(
    r"""(?:ParameterKey=(\w+),ParameterValue|(?!Parameter(?:Key|Value)=)(\w+))=([^\s,='"\\]+)"""
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the options of `sam deploy`; return the exit code: 0 all is well, 1 not."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # The options are those of sam deploy. If one is given twice, sam takes the last one too.
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--profile")
    parser.add_argument("--region")
    parser.add_argument("-g", "--guided", action="store_true")  # then sam asks for the region
    options, _ = parser.parse_known_args(arguments)
    return report(lambda: _check(options, _overrides(arguments)))


def _check(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    parameters = parse_parameters(overrides)
    session = boto3.Session(profile_name=options.profile, region_name=options.region)
    if not session.region_name:
        if options.guided:
            return
        raise NoRegionError
    session.client("sts").get_caller_identity()
    _check_artifacts_bucket(session, parameters.get("ArtifactsBucket", NONE))


def _check_artifacts_bucket(session: boto3.Session, bucket: str) -> None:
    """Check that the bucket exists, if one is given.

    Only warn if S3 denies access, because who deploys may have no access to the artifacts.

    Raises:
        CommandError: there is no such bucket.

    """
    if bucket == NONE:
        return
    try:
        check_bucket(session.client("s3"), bucket)
    except BucketAccessError as error:
        print(f"Warning: {error}", file=sys.stderr)


def _overrides(arguments: Sequence[str]) -> list[str]:
    """Return the values of `--parameter-overrides`, up to the next option, as SAM reads them.

    Raises:
        CommandError: the option is given twice, or without parameters, or parameters without it.

    """
    option = "--parameter-overrides"
    names = [word.partition("=")[0] for word in arguments]
    if names.count(option) > 1:
        raise CommandError(f"Give {option} once, with all parameters.")
    start = names.index(option) if option in names else len(names)
    _, is_joined, value = arguments[start].partition("=") if option in names else ("", "", "")
    values = [*takewhile(lambda word: not word.startswith("-"), arguments[start + 1 :])]
    end = start + 1 + len(values)
    for name in names[:start] + names[end:]:
        if name in read_template()["Parameters"]:
            raise CommandError(f"Write the parameter {name} after {option}.")
    values = [value, *values] if is_joined else values
    if option in names and not "".join(values).strip():
        raise CommandError(f"{option} needs parameters, such as ArtifactsBucket=my-weights.")
    return values


def parse_parameters(overrides: Iterable[str]) -> dict[str, str]:
    """Return the parameters of a deployment by name.

    Accept only what SAM reads completely. It ignores an unknown name, and drops a part of many
    other texts, without an error.

    Raises:
        CommandError: SAM would refuse an override, ignore it, or drop a part of it.

    """
    known = read_template()["Parameters"]
    parameters: dict[str, str] = {}
    for override in overrides:
        parts = [part for part in override.split(" ") if part]
        is_mixed = len({part.startswith("ParameterKey=") for part in parts}) > 1
        for part in parts:
            match = _PARAMETER.fullmatch(part)
            if not match or is_mixed or match[3] != NONE == match[3].lower():
                raise CommandError(
                    f"Could not read the parameter {override!r}. Write Name=Value, without quotes, "
                    "such as ArtifactsBucket=my-weights. To turn a feature off, write "
                    f"ArtifactsBucket={NONE}."
                )
            name = match[1] or match[2]
            if name not in known:
                similar = difflib.get_close_matches(name, known, n=1)
                hint = f" Did you mean {similar[0]}?" if similar else ""
                raise CommandError(f"There is no parameter {name!r}.{hint}")
            if name in parameters:
                raise CommandError(f"The parameter {name} is given twice.")
            _check_value(name, match[3], known[name])
            parameters[name] = match[3]
    return parameters


def _check_value(name: str, value: str, parameter: Mapping[str, Any]) -> None:
    """Refuse what CloudFormation would refuse, but only after the build.

    Raises:
        CommandError: the template does not allow the value.

    """
    allowed = [str(each) for each in parameter.get("AllowedValues", [])]
    if allowed:
        is_allowed, wanted = value in allowed, f"Use one of {', '.join(allowed)}."
    elif parameter["Type"] == "Number":
        least, most = parameter["MinValue"], parameter.get("MaxValue", "")
        is_number = re.fullmatch(r"-?\d+", value, re.ASCII) is not None
        is_allowed = is_number and least <= int(value) <= (most or int(value))
        wanted = f"Use a whole number from {least}{f' to {most}' if most else ''}."
    elif name == "DynamoDBEndpoint":
        is_allowed, wanted = False, "It is only for sam local."
    else:
        is_allowed = re.fullmatch(parameter["AllowedPattern"], value) is not None
        meaning = f"{parameter['Description'].split('. ')[0].rstrip('.')}."
        wanted = parameter.get("ConstraintDescription", meaning)
    if not is_allowed:
        raise CommandError(f"{name} cannot be {value!r}. {wanted}")


if __name__ == "__main__":
    sys.exit(main())
