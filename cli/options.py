"""The types of options that commands share, and the parsers of their values."""

import re
from enum import StrEnum
from typing import Annotated, NamedTuple
from uuid import UUID

import typer

from checkpoints.records.record import MAX_MODEL_ID_BYTES

STANDARD_INPUT = "-"
MAX_LABEL_CHARACTERS = 200  # because the log line of each request has the label

SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
MAX_DURATION = 100 * 365 * SECONDS["d"]

Stack = Annotated[
    str,
    typer.Option(metavar="NAME", envvar="CHECKPOINTS_STACK", help="Name of the deployed stack."),
]


class Location(NamedTuple):
    """A prefix in a bucket. It ends with a slash, or is empty and means the whole bucket."""

    bucket: str
    prefix: str

    @property
    def uri(self) -> str:
        """The URI that names it."""
        return f"s3://{self.bucket}/{self.prefix}"


class Scope(StrEnum):
    """The scopes of `checkpoints.api.auth`. To import them from there takes half a second."""

    DELETE = "checkpoints:delete"
    READ = "checkpoints:read"


def parse_duration(text: str) -> int:
    """Return the seconds of a duration such as `90d`, `12h` or `30m`.

    Raises:
        BadParameter: it is not such a duration, or more than 100 years.

    """
    match = re.fullmatch(r"([1-9][0-9]{0,8})([mhd])", text, re.ASCII)
    seconds = int(match[1]) * SECONDS[match[2]] if match else 0
    if not 0 < seconds <= MAX_DURATION:
        raise typer.BadParameter(
            f"{text!r} is not a duration such as 90d, 12h or 30m (at most 100 years)."
        )
    return seconds


def parse_period(text: str) -> int:
    """Return the seconds of a period such as `0s`, `30m` or `1h`.

    Raises:
        BadParameter: it is not such a period, or more than 100 years.

    """
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", text, re.ASCII)
    seconds = int(match[1]) * SECONDS[match[2]] if match else -1
    if not 0 <= seconds <= MAX_DURATION:
        raise typer.BadParameter(f"{text!r} is not a period such as 0s, 30m or 1h.")
    return seconds


def parse_location(text: str) -> Location:
    """Return the bucket and the prefix of a URI such as `s3://bucket/prefix/`."""
    match = re.fullmatch("s3://([^/]+)(?:/(.*))?", text, re.DOTALL)
    prefix = (match[2] or "") if match else ""
    if not match or (prefix and not prefix.endswith("/")):
        raise typer.BadParameter(
            f"{text!r} is not like s3://BUCKET/PREFIX/, with a slash at the end, or s3://BUCKET/."
        )
    return Location(match[1], prefix)


def parse_label(text: str) -> str:
    """Return the name of a token or of an entity, as it is in every line of the log."""
    if not text.strip() or not text.isprintable() or len(text) > MAX_LABEL_CHARACTERS:
        raise typer.BadParameter(
            f"It must be printable, not blank, and have at most {MAX_LABEL_CHARACTERS} characters."
        )
    return text


def parse_model_id(text: str) -> str:
    """Return the id of a model that the table can have."""
    if not 0 < len(text.encode(errors="replace")) <= MAX_MODEL_ID_BYTES:
        raise typer.BadParameter(f"A model id has 1 to {MAX_MODEL_ID_BYTES:,} bytes.")
    return text


def parse_request_id(text: str) -> UUID:
    """Return the id of a request."""
    try:
        return UUID(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text[:40]!r} is not a UUID. If the caller chose the id, use the function_request_id "
            "of the request, which `checkpoints deletions` shows."
        ) from None


def parse_url(text: str) -> str:
    """Return a URL of HTTP."""
    if not text.startswith(("http://", "https://")):
        raise typer.BadParameter("A URL must begin with http:// or https://.")
    return text
