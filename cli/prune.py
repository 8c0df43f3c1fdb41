# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2>=2.16,<3", "pydantic>=2.14,<3", "rich>=15,<16", "typer>=0.29,<1"]
# ///
"""Delete the checkpoints of a model, except those to keep."""

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from time import sleep
from typing import Annotated, Any, NamedTuple, TypeVar
from urllib.parse import quote

import httpx2
import typer
from pydantic import BaseModel, Field, NonNegativeInt, ValidationError
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from typer import Argument, Option

PAGE_SIZE = 100  # the API's maximum
# Such a request takes one or two seconds. The API's timeout is 29 seconds, and DynamoDB can limit
# a request to 500 deletes per second.
MAX_BATCH_SIZE = 1_000
MAX_BODY_BYTES = 8_000  # the common rules of AWS WAF refuse a body of more than 8 KB
MAX_ATTEMPTS = 6  # of one request, without any progress
MAX_WAIT_SECONDS = 60.0
TIMEOUT = httpx2.Timeout(40, connect=10)  # longer than the API's own timeout
MAX_DETAIL_CHARACTERS = 300
SECRET_CHARACTERS = 8  # so many of the token are not printed
MAX_METRICS = 3  # in the table of the plan
MAX_NAME_CHARACTERS = 16  # of a metric, in that table
MAX_LISTED_STEPS = 8
MIN_WIDTH = 40  # COLUMNS can be 0, and then rich would print nothing
HINTS = {
    401: "Set CHECKPOINTS_TOKEN to a token that is not revoked or expired.",
    403: "Ask for a token with the scopes checkpoints:read and checkpoints:delete.",
    404: "Set CHECKPOINTS_API_URL to the URL of the API, with its stage.",
}
REFUSALS = {401, 403, 404, 413, 422, 429}  # of the API, before it deletes anything
RETRYABLE = {408, 429}  # and any 5xx
# A proxy refuses in its response to CONNECT, before it forwards anything. A UnicodeError is about
# the name of the proxy.
NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError, UnicodeError)
LACKS_SCOPE = "The token lacks the scope "  # the API's own 403
URL_HINT = HINTS[404]
BLOCKED_HINT = (
    "If it is right, a web ACL or a proxy refused the request: ask the operator of the API."
)
PROXY_HINT = "If you use a proxy, check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY."
CERTIFICATE_HINT = "Check SSL_CERT_FILE and SSL_CERT_DIR, which name the certificates to trust."

app = typer.Typer(
    add_completion=False,
    # Help is plain text: no bracket in a text is taken for markup.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,  # they would print local variables, such as the token
)


class Messages(Console):
    """A console that lets the command go on if nobody can read it any more."""

    def on_broken_pipe(self) -> None:
        """Print nothing more. The base class would end the command, and a deletion with it."""
        self.quiet = True
        # Python writes what is left at exit. If that fails, the exit code is 120.
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


# Names of models and metrics are not markup. If nobody reads the plan, as with `| head -1`, rich
# ends the command.
STYLE: dict[str, Any] = {
    "highlight": False,
    "markup": False,
    "emoji": False,
    "width": max(Console().width, MIN_WIDTH),
}
OUTPUT = Console(**STYLE)
RESULTS = Messages(**STYLE)  # of a deletion, also on standard output
ERRORS = Messages(stderr=True, **STYLE)
UNLIMITED = OUTPUT.options.update(max_width=10_000)  # to measure how wide something is

Metrics = Mapping[str, int | float]
Checkpoints = Mapping[int, Metrics]  # by step


class Response(BaseModel, strict=True):
    """A response of the API. Unknown keys are ignored."""


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


class PruneError(Exception):
    """The command cannot continue; the message says why, and what to do if anything helps."""


class GaveUpError(PruneError):
    """The command gave up after many attempts. Later, it may succeed."""


@dataclass(eq=False)
class AttemptError(PruneError):
    """One attempt of a request failed."""

    reason: str
    is_final: bool = False  # another attempt cannot succeed
    deleted: int = 0
    may_have_deleted_more: bool = True
    wait: float | None = None  # in seconds, from the API


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


class Options(NamedTuple):
    """What the user wants."""

    model: str
    rules: Sequence[Rule]
    delete_unscored: bool
    all: bool
    dry_run: bool
    yes: bool


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
            try:
                return self._send_once(kind, method, **content)
            except AttemptError as error:
                failure = error
            self.deleted += failure.deleted
            self.may_have_deleted_more |= failure.may_have_deleted_more and method == "DELETE"
            attempts = 1 if failure.deleted else attempts + 1
            if failure.is_final:
                raise failure
            if attempts == MAX_ATTEMPTS:
                raise GaveUpError(f"Gave up after {MAX_ATTEMPTS} attempts. {failure}")
            wait = 2.0**attempts if failure.wait is None else min(failure.wait, MAX_WAIT_SECONDS)
            warn(f"{failure} Trying again in {wait:g} s.")
            sleep(wait)

    def _send_once(self, kind: type[ResponseT], method: str, **content: Any) -> ResponseT:  # noqa: ANN401
        try:
            response = self._client.request(method, self._url, **content)
        except (httpx2.RequestError, UnicodeError) as error:
            raise self._no_response(error) from error
        if response.status_code != httpx2.codes.OK:
            raise self._error_response(response)
        try:
            return kind.model_validate_json(response.content)
        except ValidationError:
            reason = f"This is not a response of the checkpoints API. {URL_HINT}"
            raise AttemptError(reason, is_final=True) from None

    def _no_response(self, error: Exception) -> AttemptError:
        reason = f"No response: {self._excerpt(str(error) or type(error).__name__)}."
        is_untrusted = "CERTIFICATE_VERIFY_FAILED" in reason
        is_refused = isinstance(error, httpx2.ProxyError) and str(error).startswith("4")
        was_sent = not isinstance(error, NOT_SENT)
        if is_untrusted:
            reason += f" {CERTIFICATE_HINT}"
        elif not was_sent:
            reason += f" {URL_HINT} {PROXY_HINT}"
        return AttemptError(
            reason, is_final=is_untrusted or is_refused, may_have_deleted_more=was_sent
        )

    def _error_response(self, response: httpx2.Response) -> AttemptError:
        try:
            error = ErrorResponse.model_validate_json(response.content)
        except ValidationError:
            error = ErrorResponse()
        status = response.status_code
        detail = self._excerpt(str(error.detail) or response.reason_phrase)
        reason = f"{status} {detail}".rstrip(" .") + "."
        is_server_error = status >= httpx2.codes.INTERNAL_SERVER_ERROR
        is_final = not is_server_error and status not in RETRYABLE
        # Gateways and proxies have no detail, or another one if they forbid a request.
        is_of_api = bool(error.detail) and (
            status != httpx2.codes.FORBIDDEN or detail.startswith(LACKS_SCOPE)
        )
        if is_final and is_of_api:
            reason = f"{reason} {HINTS.get(status, '')}".rstrip()
        elif is_final:
            reason += f" {URL_HINT} {BLOCKED_HINT}"
        is_refusal = is_of_api and status in REFUSALS
        is_complete = error.unconfirmed_count == 0 if is_server_error else is_refusal
        retry_after = response.headers.get("Retry-After", "")
        seconds = re.fullmatch(r"\d{1,9}(\.\d+)?", retry_after, re.ASCII)  # otherwise it is a date
        return AttemptError(
            reason,
            is_final=is_final,
            deleted=error.deleted_count,
            may_have_deleted_more=not is_complete,
            wait=float(retry_after) if seconds else None,
        )

    def _excerpt(self, text: str) -> str:
        """Cut a text, such as that of a gateway, unless it repeats a part of the token."""
        for removed in ("", r"\\.|[^a-z0-9]"):  # such as line breaks, also escaped ones
            token, seen = (re.sub(removed, "", each.lower()) for each in (self._token, text))
            starts = range(max(len(token) - SECRET_CHARACTERS, 0) + 1)
            if token and any(token[i : i + SECRET_CHARACTERS] in seen for i in starts):
                return "[a message with the token]"
        return printable(text[:MAX_DETAIL_CHARACTERS])


def keep_last(text: str) -> Rule:
    """Parse the value of --keep-last."""
    number = positive(text)

    def apply(found: Checkpoints, _: bool) -> Outcome:
        return Outcome(dict.fromkeys(sorted(found)[-number:], "last"))

    return Rule(f"--keep-last {text}", apply)


def keep_best(text: str) -> Rule:
    """Parse the value of --keep-best from its end, because a name can contain `:` and `=`."""
    match = re.fullmatch("(.+):(min|max)(?:=([^:]*))?", text, re.DOTALL)
    if not match:
        raise typer.BadParameter(
            "write METRIC:min if the smallest value is the best, or METRIC:max if the largest is"
        )
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
    """Refuse --keep-best if the user may mean one of these metrics."""
    for metric in sorted(map(printable, metrics)):
        reason = f"{option} is not clear, because there is a metric {metric}."
        raise PruneError(f"{reason} For that metric, write {metric}:min or {metric}:max.")


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
        match = re.fullmatch(r"(-?\d{1,100})(?:-(-?\d{1,100}))?", part, re.ASCII)
        if not match or int(match[1]) > int(match[2] or match[1]):
            raise typer.BadParameter(f"{part[:100]!r} is not a step or a range like 5000-5100")
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
        raise typer.BadParameter(f"{text[:100]!r} is not a number of 1 or more")
    return int(text)


def choose(options: Options, found: Checkpoints) -> tuple[dict[int, list[str]], list[str]]:
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
    options: Options,
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
    if len(to_delete) > MAX_LISTED_STEPS:
        where = f"the first at step {to_delete[0]}, the last at step {to_delete[-1]}"
    else:
        where = (
            f"{'at step' if len(to_delete) == 1 else 'at steps'} {', '.join(map(str, to_delete))}"
        )
    if to_delete:
        say(f"To delete: {len(to_delete):,}, {where}.")
    elif kept:
        say("There is nothing to delete.")
    else:
        say("The rules keep nothing, so nothing is deleted. To delete everything, use --all.")


def show_kept(
    found: Checkpoints, kept: Mapping[int, Sequence[str]], metrics_of_rules: Sequence[str]
) -> None:
    """Print a table of what is kept, with as many metrics as fit. Metrics of rules come first."""
    others = sorted({name for step in kept for name in found[step]})
    names = [*dict.fromkeys([*metrics_of_rules, *others])]
    table = Table("Step", "Kept by", *map(shorten, names[:MAX_METRICS]), box=box.SIMPLE)
    for step in sorted(kept):
        values = [found[step].get(name) for name in names[:MAX_METRICS]]
        numbers = ["" if value is None else f"{value:.6g}" for value in values]
        table.add_row(str(step), ", ".join(dict.fromkeys(kept[step])), *numbers)
    step_column, kept_by_column, *metric_columns = table.columns
    kept_by_column.overflow = step_column.overflow = "fold"
    for column in (step_column, *metric_columns):
        column.justify, column.no_wrap = "right", True

    def fits() -> bool:
        return OUTPUT.measure(table, options=UNLIMITED).minimum <= OUTPUT.width

    while metric_columns and not fits():
        metric_columns.pop()
        table.columns.pop()
    step_column.no_wrap = fits()  # rich would cut a step that does not fit
    OUTPUT.print(table)
    if left_out := len(names) - len(metric_columns):
        say(f"Metrics not shown: {left_out:,}.")


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


def carry_out(api: Api, options: Options) -> int:
    """Show the plan, ask, delete, and check that everything in the plan is deleted."""
    found = api.list_checkpoints()
    if not found:
        say(f"{options.model} has no checkpoints that this token can see.")
        return 0
    kept, notes = choose(options, found)
    to_delete = sorted(found.keys() - kept.keys()) if kept or options.all else []
    show_plan(options, found, kept, notes, to_delete)
    if options.dry_run or not to_delete:
        return 0
    # Python sets a stream to None if it is closed, as with `<&-`.
    if not options.yes and not (sys.stdin and sys.stdin.isatty() and sys.stdout):
        raise PruneError("Without a terminal, add --yes to confirm.")
    if not options.yes and not typer.confirm("Delete them?"):
        raise PruneError("Not confirmed.")

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
            f"prune: Not deleted, or saved again: {len(left):,}, the first at step {left[0]}. "
            "Run the command again."
        )
    return 1 if left else 0


def run(api: Api, options: Options) -> int:
    """Prune the model. If this fails, say why, and how much is deleted. Return the exit code."""
    try:
        return carry_out(api, options)
    except (PruneError, OSError) as error:  # an OSError if the disk of the output is full
        code, reason, more = 1, f"{str(error).rstrip('.')}.", api.may_have_deleted_more
        can_finish = isinstance(error, GaveUpError)
        if isinstance(error, OSError):
            RESULTS.on_broken_pipe()
    except (KeyboardInterrupt, typer.Abort) as error:
        code, reason, more = 130, "Interrupted.", api.deleted < api.planned
        can_finish = True
        # Typer turns Ctrl-C at the question into Abort, and Ctrl-D too, which means no.
        if isinstance(error, typer.Abort):
            warn("")  # ends the line of the question
        if isinstance(error.__context__, EOFError):
            code, reason = 1, "Not confirmed."
    if api.is_done:
        reason += f" All {api.planned:,} checkpoints in the plan are deleted, but this"
        reason += " could not be checked."
    elif api.planned:
        perhaps = ", and perhaps some more" if more else ""
        reason += f" Deleted: {api.deleted:,} of {api.planned:,}{perhaps}."
        reason += " To finish, run the command again." if can_finish else ""
    else:
        reason += " Nothing was deleted."
    warn(f"prune: {reason}")
    return code


def read_settings(model: str) -> tuple[str, str]:
    """Return the URL of the model's checkpoints, and the token."""
    url = os.environ.get("CHECKPOINTS_API_URL", "").strip()
    if not is_http_url(url):
        raise typer.BadParameter(URL_HINT)
    token = os.environ.get("CHECKPOINTS_TOKEN", "").strip()
    # RFC 6750. The HTTP client's error about another token would print it, and a message could
    # escape a quote or a backslash in it, so that the token would not be found there.
    if not re.fullmatch("[A-Za-z0-9._~+/-]+=*", token):
        raise typer.BadParameter(
            "Set CHECKPOINTS_TOKEN to a token: ASCII letters, digits and - . _ ~ + / = only."
        )
    # Encode dots too, because the path segments "." and ".." have a special meaning.
    segment = quote(model, safe="").replace(".", "%2E")
    return f"{url.rstrip('/')}/v1/preview/models/{segment}/checkpoints", token


def is_http_url(text: str) -> bool:
    """Return whether the HTTP client can connect to this URL, and the API can be below it."""
    try:
        url = httpx2.URL(text)
        url.host.encode("idna")  # the HTTP client would raise a traceback later
    except (httpx2.InvalidURL, UnicodeError):
        return False
    is_valid_port = url.port is None or 0 < url.port < 2**16
    is_base = is_valid_port and not re.search(r"[\s@?#]", text)
    return is_base and url.scheme in {"http", "https"} and url.host != ""


def open_client(url: str, token: str) -> httpx2.Client:
    """Return an HTTP client with the settings of the environment."""
    headers = {"Authorization": f"Bearer {token}"}
    # This machine is never reached through a proxy. A client with a transport does not use any.
    is_local = httpx2.URL(url).host in {"127.0.0.1", "localhost", "::1"}
    try:
        transport = httpx2.HTTPTransport() if is_local else None
        return httpx2.Client(headers=headers, timeout=TIMEOUT, transport=transport)
    except (OSError, ImportError, ValueError, httpx2.InvalidURL):  # SOCKS needs another library
        hints = f"{PROXY_HINT} {CERTIFICATE_HINT}"
        warn(f"prune: The HTTP client cannot start. {hints} Nothing was deleted.")
        raise typer.Exit(1) from None


Rules = list[Rule] | None


@app.command()
def prune(  # noqa: PLR0913, PLR0917 one parameter for each option
    model: Annotated[str, Argument(metavar="MODEL", help="Id of the model.")],
    last: Annotated[
        Rules,
        Option("--keep-last", metavar="N", parser=keep_last, help="Keep the N largest steps."),
    ] = None,
    best: Annotated[
        Rules,
        Option(
            "--keep-best",
            metavar="METRIC:min|max[=N]",
            parser=keep_best,
            help="Keep the N checkpoints (default: 1) with the smallest (:min) or the largest "
            "(:max) values of a metric. If values are equal, keep the larger steps.",
        ),
    ] = None,
    every: Annotated[
        Rules,
        Option("--keep-every", metavar="N", parser=keep_every, help="Keep the multiples of N."),
    ] = None,
    steps: Annotated[
        Rules,
        Option(
            "--keep",
            metavar="STEPS",
            parser=keep_steps,
            help="Keep these steps and ranges, such as 4200,5000-5100.",
        ),
    ] = None,
    delete_unscored: Annotated[
        bool,
        Option(
            "--delete-unscored",
            help="With --keep-best: do not keep a checkpoint because it lacks the metric.",
        ),
    ] = False,
    is_all: Annotated[bool, Option("--all", help="Keep nothing: delete everything.")] = False,
    dry_run: Annotated[bool, Option("--dry-run", help="Only show the plan.")] = False,
    yes: Annotated[bool, Option("--yes", help="Do not ask before deleting.")] = False,
) -> None:
    """Delete the checkpoints of a model, except those to keep.

    Each --keep option is a rule. You can combine and repeat them: a checkpoint is kept if any rule
    keeps it. A rule that keeps nothing is an error, so that a mistake deletes nothing. Only
    --keep-every N may keep nothing, while all steps are below N. If it is the only rule, nothing
    is deleted until then.

    The newest checkpoints may not be evaluated yet. So --keep-best also keeps all checkpoints after
    the largest step that has the metric. If fewer than N checkpoints have the metric, it keeps
    every checkpoint. With --delete-unscored, it does neither.

    The command shows a plan and asks before it deletes. Checkpoints that are saved at new steps
    after that are kept. But if a checkpoint in the plan is saved again, it is deleted.

    Set CHECKPOINTS_API_URL to the URL of the API, with its stage if it has one, and
    CHECKPOINTS_TOKEN to a token with the scopes checkpoints:read and checkpoints:delete.

    \b
    Examples of MODEL and options:
      resnet-50 --keep-last 5 --dry-run
      resnet-50 --keep-best val/reward:max --keep-best val/loss:min=3
      resnet-50 --keep-every 1000 --keep 4200,5000-5100 --yes

    Exit codes: 0 done, also if there was nothing to delete; 1 failed, not confirmed or only partly
    done; 2 wrong usage; 130 interrupted.
    """  # noqa: D301 Typer does not wrap a paragraph that begins with a backspace
    # Print an escape for what the encoding lacks, such as cp1252 on Windows. stderr always does so.
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    rules = [*(last or []), *(best or []), *(every or []), *(steps or [])]
    options = Options(model, rules, delete_unscored, is_all, dry_run, yes)
    if not model.isprintable() or not model:
        raise typer.BadParameter("A model id must be printable and not empty.", param_hint="MODEL")
    if bool(rules) == is_all:
        raise typer.BadParameter("Give --keep options, or --all to delete everything, not both.")
    if delete_unscored and not best:
        raise typer.BadParameter("--delete-unscored needs --keep-best.")
    url, token = read_settings(model)
    with open_client(url, token) as client:
        raise typer.Exit(run(Api(client, url, token), options))


if __name__ == "__main__":
    app(windows_expand_args=False)  # a model id is not a pattern for names of files
