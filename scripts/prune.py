# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2>=2.16,<3", "pydantic>=2.14,<3", "rich>=15,<16"]
# ///
"""Delete the checkpoints of a model, except those that the rules keep."""

import argparse
import os
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from time import sleep
from typing import Annotated, Any, NamedTuple, TypeVar
from urllib.parse import quote
from urllib.request import getproxies

import httpx2
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.progress import track
from rich.table import Table

PAGE_SIZE = 100  # the API's maximum
# Such a request takes one or two seconds. The API's timeout is 29 seconds, and DynamoDB can limit
# a request to 500 deletes per second.
MAX_BATCH_SIZE = 1_000
MAX_BODY_BYTES = 8_000  # the common rules of AWS WAF refuse a body of more than 8 KB
MAX_ATTEMPTS = 6  # of one request, without any progress
MAX_WAIT_SECONDS = 60.0
TIMEOUT = httpx2.Timeout(40, connect=10)  # longer than the API's own timeout
THIS_MACHINE = {"127.0.0.1", "localhost", "::1"}  # which is never reached through a proxy
MAX_DETAIL_CHARACTERS = 300
SECRET_CHARACTERS = 8  # so many of the token are not printed
MAX_METRICS = 3  # in the table of the plan
MAX_NAME_CHARACTERS = 16  # of a metric, in that table
MAX_LISTED_STEPS = 8
MIN_WIDTH = 40  # so that the plan can be read
NO_BREAK_SPACE = "\xa0"
HINTS = {
    401: "Set CHECKPOINTS_TOKEN to a token that is not revoked or expired.",
    403: "Ask for a token with the scopes checkpoints:read and checkpoints:delete.",
}
REFUSALS = {401, 404, 413, 422, 429}  # of the API, before it deletes anything; also some 403
RETRYABLE = {408, 429}  # and any 5xx
LACKS_SCOPE = "The token lacks the scope "
TRUST_HINT = "SSL_CERT_FILE or SSL_CERT_DIR can name the certificates to trust."
URL_HINT = "Set CHECKPOINTS_API_URL to the URL of the API, with its stage."
BLOCKED_HINT = (
    "If it is right, a web ACL or a proxy refused the request: ask the operator of the API."
)
EPILOG = """\
You can combine rules: a checkpoint is kept if any rule keeps it. If a rule
keeps no checkpoint, the command fails, but not because of --keep-every N if all
steps are below N. This rule alone then deletes nothing.
Checkpoints that are saved at new steps while the command runs are kept. A
checkpoint in the plan that is saved again in the meantime is deleted.

--keep-best also keeps the checkpoints after the last one that has the metric,
because they may not be evaluated yet. If fewer than N checkpoints have it, it
keeps every checkpoint. --delete-unscored turns both off.

Set CHECKPOINTS_API_URL to the URL of the API, with its stage if it has one,
such as https://api.example.com/prod. Set CHECKPOINTS_TOKEN to a token with the
scopes checkpoints:read and checkpoints:delete.

examples:
  prune.py resnet-50 --keep-last 5 --dry-run
  prune.py resnet-50 --keep-best val/reward:max --keep-best val/loss:min=3
  prune.py resnet-50 --keep-every 1000 --keep 4200,5000-5100 --yes
  prune.py resnet-50 --all

exit codes: 0 everything in the plan is deleted, the plan deletes nothing, or it
is a dry run; 1 nothing or only a part is deleted, or this could not be checked;
2 wrong usage; 130 interrupted
"""


class Messages(Console):
    """A console that lets the command go on if nobody can read it any more."""

    def on_broken_pipe(self) -> None:
        """Print nothing more. The base class would end the command, and a deletion with it."""
        self.quiet = True
        # Python writes what is left at exit. If that fails, the exit code is 120.
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


# Print text without markup. If nobody reads the plan, as with `| head -1`, rich ends the command.
# NO_COLOR alone does not stop rich from printing in bold, but a console without colors does.
STYLE: dict[str, Any] = {
    "color_system": None if os.environ.get("NO_COLOR") else "auto",
    "highlight": False,
    "markup": False,
    "emoji": False,
    "width": max(Console().width, MIN_WIDTH),  # COLUMNS can be 0, which would print nothing
}
OUTPUT = Console(**STYLE)
RESULTS = Messages(**STYLE)  # of a deletion, also on standard output
ERRORS = Messages(stderr=True, **STYLE)

Metrics = Mapping[str, int | float]
Checkpoints = Mapping[int, Metrics]  # by step


class Response(BaseModel):
    """A response of the API. Unknown keys are ignored."""

    model_config = ConfigDict(strict=True)


class Checkpoint(Response):
    """A checkpoint on a page."""

    step: int
    metrics: dict[str, Annotated[int | float, Field(gt=-1e127, lt=1e127)]]  # as in DynamoDB


class Page(Response):
    """A page of the checkpoints of a model, and whether there are more."""

    data: list[Checkpoint]
    has_more: bool
    last_id: str = ""


class Deletion(Response):
    """How many checkpoints a request deleted."""

    deleted_count: NonNegativeInt


class ErrorResponse(Response):
    """Why a request failed. Without counts, the number of deleted checkpoints is unknown."""

    detail: str | list[Any] = ""
    deleted_count: NonNegativeInt = 0
    unconfirmed_count: NonNegativeInt | None = None


ResponseT = TypeVar("ResponseT", bound=Response)


class Failure(NamedTuple):
    """One failed attempt of a request."""

    reason: str
    is_final: bool = False
    deleted: int = 0
    may_have_deleted_more: bool = True
    wait: float | None = None  # in seconds, from the API


class PruneError(Exception):
    """The command cannot continue; the message says why, and what to do if anything helps."""


class GaveUpError(PruneError):
    """The command gave up after many attempts. Later, it may succeed."""


class NotConfirmedError(Exception):
    """The deletion is not confirmed; the message says that nothing was deleted."""


class Outcome(NamedTuple):
    """What a rule keeps of a model: the reason for each step, and what the user should know."""

    kept: Mapping[int, str]
    note: str = ""
    is_too_early: bool = False  # to delete what this rule does not keep


class Rule(NamedTuple):
    """What one option keeps. The second argument of `apply` is --delete-unscored."""

    option: str
    apply: Callable[[Checkpoints, bool], Outcome]
    metric: str | None = None


class Api:
    """The checkpoints of one model, over HTTP."""

    def __init__(self, client: httpx2.Client, url: str, token: str) -> None:
        self._client, self._url, self._token = client, url, token
        self.planned = 0
        self.is_done = False  # every step in the plan is deleted, but this is not checked yet
        self.deleted = 0
        self.may_have_deleted_more = False  # by a request that failed

    def list_checkpoints(self) -> dict[int, Metrics]:
        """Return all checkpoints of the model that the token can see."""
        found: dict[int, Metrics] = {}
        parameters: dict[str, str | int] = {"limit": PAGE_SIZE}
        last: list[int] = []  # the last step of the page before
        with ERRORS.status("Listing checkpoints", spinner="line") as status:
            while True:
                page = self._send(Page, "GET", params=parameters)
                found |= {checkpoint.step: checkpoint.metrics for checkpoint in page.data}
                if not page.has_more:
                    return found
                steps = [*last, *(checkpoint.step for checkpoint in page.data)]
                is_ascending = steps == sorted(set(steps))  # as the API sorts them
                if not page.data or not is_ascending or page.last_id == parameters.get("after"):
                    raise PruneError("The API's list of checkpoints does not end.")
                last, parameters["after"] = steps[-1:], page.last_id
                status.update(f"Listing checkpoints: {len(found):,}")

    def delete(self, steps: Sequence[int]) -> None:
        """Delete the checkpoints at these steps, if they exist."""
        # `_send` also adds to the count, so read the count only afterwards.
        response = self._send(Deletion, "DELETE", json={"steps": steps})
        self.deleted += response.deleted_count

    def _send(self, kind: type[ResponseT], method: str, **content: Any) -> ResponseT:  # noqa: ANN401
        """Send a request until it succeeds. It is safe to repeat a deletion."""
        attempts = 0
        while True:
            result = self._send_once(kind, method, **content)
            if not isinstance(result, Failure):
                return result
            self.deleted += result.deleted
            self.may_have_deleted_more |= result.may_have_deleted_more and method == "DELETE"
            reason = printable(result.reason)
            attempts = 1 if result.deleted else attempts + 1
            if result.is_final:
                raise PruneError(reason)
            if attempts == MAX_ATTEMPTS:
                raise GaveUpError(f"Gave up after {MAX_ATTEMPTS} attempts. {reason}")
            wait = 2.0**attempts if result.wait is None else min(result.wait, MAX_WAIT_SECONDS)
            warn(f"{reason} Trying again in {wait:g} s.")
            sleep(wait)

    def _send_once(self, kind: type[ResponseT], method: str, **content: Any) -> ResponseT | Failure:  # noqa: ANN401
        try:
            response = self._client.request(method, self._url, **content)
        except httpx2.RequestError as error:
            return self._no_response(error)
        status = response.status_code
        try:
            if status == httpx2.codes.OK:
                return kind.model_validate_json(response.content)
            error_response = ErrorResponse.model_validate_json(response.content)
        except ValidationError:
            if status == httpx2.codes.OK:
                return Failure(
                    f"This is not a response of the checkpoints API. {URL_HINT}", is_final=True
                )
            error_response = ErrorResponse()
        detail = self._excerpt(str(error_response.detail) or response.reason_phrase)
        reason = f"{status} {detail}".rstrip(" .") + "."
        is_server_error = status >= httpx2.codes.INTERNAL_SERVER_ERROR
        # Any other response below 500, or one without a detail, can be that of a gateway.
        is_refusal = bool(error_response.detail) and (
            status in REFUSALS
            or (status == httpx2.codes.FORBIDDEN and lacks_scope(response, detail))
        )
        is_complete = error_response.unconfirmed_count == 0 if is_server_error else is_refusal
        if not is_server_error and status not in RETRYABLE:
            if status == httpx2.codes.PROXY_AUTHENTICATION_REQUIRED:
                hint = proxy_hint(self._url).strip() or URL_HINT
            elif status == httpx2.codes.FORBIDDEN and not lacks_scope(response, detail):
                hint = f"{URL_HINT} {BLOCKED_HINT}"
            elif status == httpx2.codes.NOT_FOUND or not error_response.detail:
                hint = URL_HINT
            else:
                hint = HINTS.get(status, "")
            reason = f"{reason} {hint}".rstrip()
            return Failure(reason, is_final=True, may_have_deleted_more=not is_complete)
        retry_after = response.headers.get("Retry-After", "")
        seconds = re.fullmatch(r"\d{1,9}(\.\d+)?", retry_after, re.ASCII)  # otherwise it is a date
        return Failure(
            reason,
            deleted=error_response.deleted_count,
            may_have_deleted_more=not is_complete,
            wait=float(retry_after) if seconds else None,
        )

    def _no_response(self, error: httpx2.RequestError) -> Failure:
        refused_by_proxy = isinstance(error, httpx2.ProxyError)  # as an answer to CONNECT
        not_connected = isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)
        was_sent = not refused_by_proxy and not not_connected
        reason = f"No response: {self._excerpt(str(error) or type(error).__name__)}."
        if "CERTIFICATE_VERIFY_FAILED" in reason:
            return Failure(f"{reason} {TRUST_HINT}", is_final=True, may_have_deleted_more=was_sent)
        reason += f" {URL_HINT}" if not_connected else ""
        reason += "" if was_sent else proxy_hint(self._url)
        is_final = refused_by_proxy and str(error).startswith("4")
        return Failure(reason, is_final=is_final, may_have_deleted_more=was_sent)

    def _excerpt(self, text: str) -> str:
        """Cut a text, such as that of a gateway, unless it repeats a part of the token."""
        for removed in ("", r"\\.|[^a-z0-9]"):  # such as line breaks, also escaped ones
            token, seen = (re.sub(removed, "", each.lower()) for each in (self._token, text))
            starts = range(max(len(token) - SECRET_CHARACTERS, 0) + 1)
            if token and any(token[i : i + SECRET_CHARACTERS] in seen for i in starts):
                return "[a message with the token]"
        return text[:MAX_DETAIL_CHARACTERS]


def lacks_scope(response: httpx2.Response, detail: str) -> bool:
    """Return whether this 403 is the API's own, and not that of a gateway or a web ACL."""
    names = ("WWW-Authenticate", "x-amzn-Remapped-WWW-Authenticate")  # API Gateway renames it
    challenges = "".join(response.headers.get(name, "") for name in names)
    return 'error="insufficient_scope"' in challenges or detail.startswith(LACKS_SCOPE)


def main(
    arguments: Sequence[str] | None = None, transport: httpx2.BaseTransport | None = None
) -> int:
    """Prune a model; return the exit code."""
    # Print an escape for what the encoding lacks, such as cp1252 on Windows. stderr always does so.
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    parser = _parser()
    options = parser.parse_args(arguments)
    if bool(options.rules) == options.all:
        parser.error("Give --keep options, or --all to delete everything, not both.")
    if options.delete_unscored and not any(rule.metric for rule in options.rules):
        parser.error("--delete-unscored needs --keep-best.")
    url = os.environ.get("CHECKPOINTS_API_URL", "").strip()
    if not is_http_url(url) or re.search("[@?#]", url):
        parser.error(URL_HINT)
    token = os.environ.get("CHECKPOINTS_TOKEN", "").strip()
    # RFC 6750. The HTTP client's error about another token would print it, and a message could
    # escape a quote or a backslash in it, so that the token would not be found there.
    if not re.fullmatch("[A-Za-z0-9._~+/-]+=*", token):
        parser.error(
            "Set CHECKPOINTS_TOKEN to a token: ASCII letters, digits and - . _ ~ + / = only."
        )
    # Encode dots too, because the path segments "." and ".." have a special meaning.
    model = quote(options.model, safe="").replace(".", "%2E")
    path = f"{url.rstrip('/')}/v1/preview/models/{model}/checkpoints"
    headers = {"Authorization": f"Bearer {token}"}
    is_local = httpx2.URL(url).host in THIS_MACHINE
    if not transport:
        if problem := unusable_setting(uses_proxy=not is_local):
            warn(f"prune.py: {problem} Nothing was deleted.")
            return 1
        if is_local:
            transport = httpx2.HTTPTransport()  # one without a proxy
    with httpx2.Client(headers=headers, timeout=TIMEOUT, transport=transport) as client:
        return run(Api(client, path, token), options)


def run(api: Api, options: argparse.Namespace) -> int:
    """Prune the model. If this fails, say why, and how much is deleted. Return the exit code."""
    try:
        return prune(api, options)
    except NotConfirmedError as error:
        warn(f"prune.py: {error}")
        return 1
    except (PruneError, OSError) as error:  # an OSError if the disk of the output is full
        code, reason, more = 1, f"{str(error).rstrip('.')}.", api.may_have_deleted_more
        can_finish = isinstance(error, GaveUpError)
        if isinstance(error, OSError):
            RESULTS.on_broken_pipe()
    except KeyboardInterrupt:
        code, reason, more = 130, "Interrupted.", api.deleted < api.planned
        can_finish = True
    if api.is_done:
        reason += f" All {api.planned:,} checkpoints in the plan are deleted, but this"
        reason += " could not be checked."
    elif api.planned:
        perhaps = ", and perhaps some more" if more else ""
        reason += f" Deleted: {api.deleted:,} of {api.planned:,}{perhaps}."
        reason += " To finish, run the command again." if can_finish else ""
    else:
        reason += " Nothing was deleted."
    warn(f"prune.py: {reason}")
    return code


def is_http_url(text: str) -> bool:
    """Return whether the HTTP client can connect to this URL."""
    try:
        url = httpx2.URL(text)
        url.host.encode("idna")  # the HTTP client would raise a traceback later
    except (httpx2.InvalidURL, UnicodeError):
        return False
    if re.search(r"\s", text) or (url.port is not None and not 0 < url.port < 2**16):
        return False
    return url.scheme in {"http", "https"} and url.host != ""


def unusable_setting(*, uses_proxy: bool) -> str:
    """Return what to do about a setting that keeps the HTTP client from starting, if any."""
    proxies = getproxies()  # the client reads the same
    if not uses_proxy or "*" in map(str.strip, proxies.get("no", "").split(",")):
        proxies = {}
    for scheme in ("http", "https", "all"):
        proxy = proxies.get(scheme)
        if proxy and not is_http_url(proxy if "://" in proxy else f"http://{proxy}"):
            name = proxy_variable(scheme)
            return f"Set {name} to the URL of an HTTP proxy (SOCKS is not supported), or unset it."
    certificates = "Set {} to certificates in PEM format, or unset it."
    try:
        (httpx2.Client() if uses_proxy else httpx2.HTTPTransport()).close()
    except ValueError:  # the proxies are valid, so it is a host that has none
        return f"Set {proxy_variable('no')} to a list of hosts, or unset it."
    except OSError as error:
        if error.filename:  # not set if a file of certificates cannot be read
            return "Set SSLKEYLOGFILE to a file that can be written, or unset it."
        return certificates.format("SSL_CERT_FILE")
    folders = "" if os.environ.get("SSL_CERT_FILE") else os.environ.get("SSL_CERT_DIR", "")
    if folders and not any(Path(folder).is_dir() for folder in folders.split(os.pathsep)):
        return certificates.format("SSL_CERT_DIR")
    return ""


def proxy_hint(url: str) -> str:
    """Return a sentence that names the proxies, if there are any."""
    is_local = httpx2.URL(url).host in THIS_MACHINE
    names = [proxy_variable(each) for each in ("http", "https", "all") if each in getproxies()]
    return f" Check the proxy settings: {', '.join(names)}." if names and not is_local else ""


def proxy_variable(prefix: str) -> str:
    """Return the variable as it is spelled in the environment, where lower case comes first."""
    name = f"{prefix}_proxy"
    return name if os.environ.get(name) else name.upper()


def prune(api: Api, options: argparse.Namespace) -> int:
    """Show the plan, ask, delete, and check that everything in the plan is deleted."""
    found = api.list_checkpoints()
    if not found:
        say(f"{options.model} has no checkpoints that this token can see.")
        return 0
    kept, notes = choose(found, options)
    to_delete = sorted(found.keys() - kept.keys()) if kept or options.all else []
    show_plan(options, found, kept, notes, to_delete)
    if options.dry_run or not to_delete:
        return 0
    # Python sets a stream to None if it is closed, as with `<&-`.
    if not options.yes and not (sys.stdin and sys.stdin.isatty() and sys.stdout):
        raise NotConfirmedError("Nothing was deleted: without a terminal, add --yes to confirm.")
    if not options.yes and not confirm("Delete them? [y/N] "):
        raise NotConfirmedError("Nothing was deleted.")

    api.planned = len(to_delete)
    longest = max(len(f"{step},") for step in to_delete)
    size = min(MAX_BATCH_SIZE, (MAX_BODY_BYTES - len('{"steps":[]}')) // longest)
    batches = [to_delete[i : i + size] for i in range(0, len(to_delete), size)]
    for batch in track(batches, "Deleting", console=ERRORS, disable=not ERRORS.is_terminal):
        api.delete(batch)

    api.is_done = True
    now = api.list_checkpoints()
    left = [step for step in to_delete if step in now]
    report(f"Deleted: {api.deleted:,}. Kept: {len(now.keys() & kept.keys()):,}.")
    if (gone := len(to_delete) - len(left) - api.deleted) > 0:
        perhaps = ", or deleted by a request that failed"
        report(f"Already deleted{perhaps if api.may_have_deleted_more else ''}: {gone:,}.")
    if new := now.keys() - found.keys():
        report(f"Saved at new steps meanwhile, and kept: {len(new):,}.")
    if left:
        warn(
            f"prune.py: Not deleted, or saved again: {len(left):,}, the first at step {left[0]}. "
            "Run the command again."
        )
    return 1 if left else 0


def choose(
    found: Checkpoints, options: argparse.Namespace
) -> tuple[dict[int, list[str]], list[str]]:
    """Return the steps to keep, each with its reasons, and what the rules have to say."""
    kept: dict[int, list[str]] = {}
    notes = []
    is_too_early = True
    for rule in options.rules:
        outcome = rule.apply(found, options.delete_unscored)
        is_too_early &= outcome.is_too_early
        if not outcome.kept and not outcome.is_too_early:
            reason = f"{rule.option} keeps nothing. {outcome.note}".rstrip()
            raise PruneError(f"{reason} Change or remove this rule.")
        if outcome.note:
            notes.append(f"{rule.option}: {outcome.note}")
        for step, reason in outcome.kept.items():
            kept.setdefault(step, []).append(reason)
    return {} if is_too_early else kept, notes


def show_plan(
    options: argparse.Namespace,
    found: Checkpoints,
    kept: Mapping[int, Sequence[str]],
    notes: Sequence[str],
    to_delete: Sequence[int],
) -> None:
    """Print what is kept and why, and what is deleted."""
    say(f"Checkpoints of {options.model}: {len(found):,}. To keep: {len(kept):,}.")
    if kept:
        show_kept(found, kept, [rule.metric for rule in options.rules if rule.metric])
    for note in notes:
        warn(note)
    match to_delete:
        case [] if not kept:
            say("The rules keep nothing, so nothing is deleted. To delete everything, use --all.")
        case []:
            say("There is nothing to delete.")
        case [step]:
            say(f"To delete: 1, at step {step}.")
        case [first, *_, last] if len(to_delete) > MAX_LISTED_STEPS:
            count = f"{len(to_delete):,}"
            say(f"To delete: {count}, the first at step {first}, the last at step {last}.")
        case _:
            say(f"To delete: {len(to_delete)}, at steps {', '.join(map(str, to_delete))}.")


def show_kept(
    found: Checkpoints, kept: Mapping[int, Sequence[str]], metrics_of_rules: Sequence[str]
) -> None:
    """Print a table of what is kept, with as many metrics as fit. Metrics of rules come first."""
    steps = sorted(kept)
    names = dict.fromkeys([*metrics_of_rules, *sorted({name for s in steps for name in found[s]})])
    columns = [["Step", *map(str, steps)]]
    for name in [*names][:MAX_METRICS]:
        values = [found[step].get(name) for step in steps]
        columns.append([shorten(name), *("" if v is None else f"{v:.6g}" for v in values)])
    # Lines may be broken between reasons, but not within a reason such as "max loss".
    reasons = [
        ", ".join(reason.replace(" ", NO_BREAK_SPACE) for reason in dict.fromkeys(kept[step]))
        for step in steps
    ]
    words = ["Kept by", *(f"{word}," for text in reasons for word in text.split(", "))]
    longest = max(map(cell_len, words))
    while True:
        widths = [max(map(cell_len, column)) for column in columns]
        room = OUTPUT.width - sum(widths) - 3 * len(widths) - 4  # the rest is between the columns
        if room >= longest or len(columns) == 1:
            break
        columns.pop()
    kept_by = [textwrap.fill(text, max(room, 1), break_on_hyphens=False) for text in reasons]
    columns.insert(1, ["Kept by", *(text.replace(NO_BREAK_SPACE, " ") for text in kept_by)])
    table = Table(*(heading for heading, *_ in columns), box=box.SIMPLE)
    for column in table.columns:
        column.overflow = "fold"
        column.justify = "left" if column.header == "Kept by" else "right"
    for row in zip(*(cells for _, *cells in columns), strict=True):
        table.add_row(*row)
    OUTPUT.print(table)
    if left_out := len(names) + 2 - len(columns):
        say(f"Metrics not shown: {left_out:,}.")


def keep_last(text: str) -> Rule:
    """Parse the value of --keep-last."""
    number = positive(text)
    return Rule(
        f"--keep-last {text}",
        lambda found, _: Outcome(dict.fromkeys(sorted(found)[-number:], "last")),
    )


def keep_best(text: str) -> Rule:
    """Parse the value of --keep-best from its end, because a name can contain `:` and `=`."""
    match = re.fullmatch("(.+):(min|max)(?:=([^:]*))?", text, re.DOTALL)
    if not match:
        raise argparse.ArgumentTypeError(missing_direction(text))
    metric, number = match[1], positive("1" if match[3] is None else match[3])
    sign = -1 if match[2] == "min" else 1
    name = shorten(metric)
    option = f"--keep-best {printable(text)}"

    def apply(found: Checkpoints, delete_unscored: bool) -> Outcome:
        names = set[str]().union(*found.values())
        refuse_other_readings(option, names & {text, f"{metric}:{match[2]}"})
        scored = [step for step in found if metric in found[step]]
        if not scored:
            return Outcome({}, f"The metrics are: {printable(', '.join(sorted(names)) or 'none')}.")
        ranked = sorted(scored, key=lambda step: (sign * found[step][metric], step))
        kept = dict.fromkeys(ranked[-number:], f"{match[2]} {name}")
        too_few = len(scored) < number
        note = ""
        if too_few:
            note = f"Fewer than {number:,} checkpoints have it: {len(scored):,} of {len(found):,}."
            note += "" if delete_unscored else " So this rule keeps every checkpoint."
        elif len(scored) < len(found):
            note = f"Checkpoints without it: {len(found) - len(scored):,} of {len(found):,}."
        if not delete_unscored:
            last = max(scored)
            for step in found.keys() - scored:
                if step > last:  # training saves checkpoints before they are evaluated
                    kept[step] = f"no {name} yet"
                elif too_few:
                    kept[step] = f"no {name}"
        return Outcome(kept, note)

    return Rule(option, apply, metric)


def refuse_other_readings(option: str, metrics: set[str]) -> None:
    """Refuse --keep-best if the user may mean one of these metrics, with an example."""
    for metric in sorted(metrics):
        reason = f"{option} is not clear, because there is a metric {printable(metric)}."
        raise PruneError(f"{reason} For that metric, write {examples(metric)}.")


def missing_direction(text: str) -> str:
    """Return the error for a value of --keep-best without :min or :max, with an example."""
    match = re.fullmatch(r"(.+?)(?::(?:min|max)?)?(=\d+)?", text, re.DOTALL | re.IGNORECASE)
    if not match or text.startswith(":"):
        return "the metric has no name"
    advice = "add :min if the smallest value is the best, or :max if the largest is"
    return f"{advice}, e.g. {examples(match[1], match[2] or '')}"


def examples(metric: str, number: str = "") -> str:
    """Return how to keep the checkpoints with the smallest or the largest values of a metric."""
    low, high = (printable(f"{metric}:{each}{number}") for each in ("min", "max"))
    return f"--keep-best {low} or --keep-best {high}"


def keep_every(text: str) -> Rule:
    """Parse the value of --keep-every."""
    number = positive(text)
    reason = f"every {number}"

    def apply(found: Checkpoints, _: bool) -> Outcome:
        kept = dict.fromkeys((step for step in found if step % number == 0), reason)
        if max(found) >= number:
            return Outcome(kept)
        note = f"This rule alone deletes nothing until a step reaches {number}."
        return Outcome(kept, f"{note} The largest step is {max(found)}.", is_too_early=True)

    return Rule(f"--keep-{reason}", apply)


def keep_steps(text: str) -> Rule:
    """Parse the value of --keep: steps, and ranges, which include both ends."""
    ranges = {}
    for part in text.split(","):
        match = re.fullmatch(r"(-?\d+)(?:-(-?\d+))?", part, re.ASCII)
        if not match or int(match[1]) > int(match[2] or match[1]):
            raise argparse.ArgumentTypeError(f"{part!r} is not a step or a range like 5000-5100")
        ranges[part] = (int(match[1]), int(match[2] or match[1]))

    def apply(found: Checkpoints, _: bool) -> Outcome:
        kept = [step for step in found if any(a <= step <= z for a, z in ranges.values())]
        absent = [part for part, (a, z) in ranges.items() if not any(a <= s <= z for s in found)]
        note = f"There is no checkpoint at {', '.join(absent)}." if absent else ""
        return Outcome(dict.fromkeys(kept, "listed"), note)

    return Rule(f"--keep {text}", apply)


def positive(text: str) -> int:
    """Parse a number of 1 or more."""
    if not re.fullmatch(r"0*[1-9]\d{0,99}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 1 or more")
    return int(text)


def model_id(text: str) -> str:
    """Check the id of a model before it is sent and printed."""
    if not text or not text.isprintable():
        raise argparse.ArgumentTypeError("a model id must be printable and not empty")
    return text


def confirm(question: str) -> bool:
    """Ask a question, and return whether the user types yes."""
    try:
        return input(question).strip().lower() in {"y", "yes"}
    except EOFError:  # Ctrl-D
        print()
        return False


def say(text: str, console: Console = OUTPUT) -> None:
    """Print text. On a terminal, wrap it between words; otherwise keep it on one line."""
    console.print(text, soft_wrap=not console.is_terminal)


def warn(text: str, console: Messages = ERRORS) -> None:
    """Print text to standard error, if that is possible."""
    try:
        say(text, console)
    except OSError:  # such as a full disk
        console.on_broken_pipe()


def report(text: str) -> None:
    """Print a result, if necessary to standard error."""
    warn(text, RESULTS)
    if RESULTS.quiet:
        warn(text)


def printable(text: str) -> str:
    """Escape text from the API, because control characters could change the terminal.

    Also escape what the output's encoding lacks: what is measured and cut must be what is printed.
    """
    text = text if text.isprintable() else repr(text)
    return text.encode(OUTPUT.encoding, "backslashreplace").decode(OUTPUT.encoding)


def shorten(name: str) -> str:
    """Return the name of a metric for the table. Of a long name, keep the end."""
    name = printable(name)
    if len(name) > MAX_NAME_CHARACTERS:
        name = printable(f"…{name[1 - MAX_NAME_CHARACTERS :]}")
    return name


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prune.py",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="MODEL", type=model_id, help="id of the model")
    add_rule = partial(parser.add_argument, action="append", dest="rules", default=[])
    add_rule("--keep-last", type=keep_last, metavar="N", help="keep the N largest steps")
    add_rule(
        "--keep-best",
        type=keep_best,
        metavar="METRIC:min|max[=N]",
        help="keep the N checkpoints (default: 1) with the smallest (:min) or the largest (:max) "
        "values of a metric; if values are equal, keep the larger steps",
    )
    add_rule(
        "--keep-every", type=keep_every, metavar="N", help="keep the steps that are multiples of N"
    )
    add_rule(
        "--keep",
        type=keep_steps,
        metavar="STEPS",
        help="keep these steps, such as 4200,5000-5100; if the first is negative, write --keep=-5",
    )
    parser.add_argument(
        "--delete-unscored",
        action="store_true",
        help="with --keep-best, do not keep checkpoints without the metric",
    )
    parser.add_argument("--all", action="store_true", help="keep nothing: delete everything")
    parser.add_argument("--dry-run", action="store_true", help="show the plan, and delete nothing")
    parser.add_argument("--yes", action="store_true", help="do not ask before deleting")
    return parser


if __name__ == "__main__":
    sys.exit(main())
