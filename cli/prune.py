# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2>=2.16,<3", "pydantic>=2.14,<3", "rich>=15,<16", "typer>=0.29,<1"]
# ///
"""Delete the checkpoints of models, except those to keep."""

import json
import os
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import TextIOWrapper
from time import sleep, time
from typing import Annotated, Any, NamedTuple, TypeVar
from urllib.parse import quote

import httpx2
import typer
from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    NonNegativeInt,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from rich import box
from rich.console import Console
from rich.filesize import decimal
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
INTERRUPTED = 130  # the exit code
MIN_WIDTH = 40  # COLUMNS can be 0, and then rich would print nothing
REQUEST_ID = "x-amzn-RequestId"  # a header of API Gateway, whose value is in the API's log
UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
SECONDS = {"m": 60, "h": 3_600, "d": 86_400}
MAX_DURATION = 100 * 365 * SECONDS["d"]
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
    "If the URL is right, a web ACL or a proxy refused the request: ask the operator of the API."
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


def none_if_invalid(value: object, validate: ValidatorFunctionWrapHandler) -> Any:  # noqa: ANN401
    """Read a value that the API does not check either: whoever saves the checkpoint records it."""
    try:
        return validate(value)
    except ValidationError:
        return None


class Response(BaseModel, strict=True):
    """A response of the API. Unknown keys are ignored."""


class Checkpoint(Response):
    """A checkpoint on a page. The numbers are limited as in DynamoDB."""

    step: int
    metrics: dict[str, Annotated[int | float, Field(gt=-1e127, lt=1e127)]]
    size_bytes: Annotated[int | None, Field(ge=0, lt=10**38), WrapValidator(none_if_invalid)] = None
    created_at: Annotated[int | None, WrapValidator(none_if_invalid)] = None  # in epoch seconds
    # Anything but false protects, as in the API.
    protected: Annotated[bool, BeforeValidator(lambda value: value is not False)] = False


Checkpoints = Mapping[int, Checkpoint]  # by step


class Page(Response):
    """A page of the checkpoints of a model, and whether there are more."""

    data: list[Checkpoint]
    has_more: bool
    last_id: str = ""


class Deletion(Response):
    """How many checkpoints a request deleted, and which it did not because they are protected."""

    deleted_count: NonNegativeInt
    protected_steps: list[int] = []


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


class Choice(NamedTuple):
    """What a rule keeps of a model, and what the user should know."""

    kept: Mapping[int, str]  # the reason for each step, with {} for the metric
    note: str = ""
    is_too_early: bool = False  # to delete what this rule does not keep
    undecided: Collection[int] = ()  # the rule cannot know whether to keep these steps


class Rule(NamedTuple):
    """What one option keeps."""

    option: str
    apply: "Callable[[Checkpoints, Options], Choice]"
    metric: str = ""


class Options(NamedTuple):
    """What the user wants."""

    rules: Sequence[Rule]
    delete_unscored: bool
    all: bool
    dry_run: bool
    yes: bool
    json: bool
    now: float  # one time for all models, from before they are listed

    @property
    def console(self) -> Console:
        """Where the plans and the question go."""
        return ERRORS if self.json else OUTPUT


class Reason(NamedTuple):
    """Why a checkpoint is kept."""

    text: str  # with {} for the metric
    metric: str = ""

    def __str__(self) -> str:
        """Return the reason in full."""
        return self.text.format(self.metric)

    def short(self) -> str:
        """Return the reason for the table."""
        return self.text.format(shorten(self.metric))


class Size(NamedTuple):
    """The size of some checkpoints, as far as it is known."""

    size_bytes: int
    known: int
    of: int

    def __str__(self) -> str:
        """Return the size, and of how many checkpoints if not of all."""
        texts = [decimal(self.size_bytes)] if self.known else []
        if self.known < self.of:
            texts.append(f"size known for {self.known:,} of {self.of:,}")
        return ", ".join(texts)


@dataclass(frozen=True)
class Plan:
    """What is to be done with the checkpoints of a model."""

    found: Checkpoints
    kept: Mapping[int, Sequence[Reason]]
    to_delete: Sequence[int]  # ascending
    notes: Sequence[str]
    is_too_early: bool  # the rules alone keep nothing, so nothing is deleted

    def size_of(self, steps: Collection[int]) -> Size:
        """Return the size of the checkpoints at these steps."""
        sizes = [self.found[step].size_bytes for step in steps]
        known = [size for size in sizes if size is not None]
        return Size(sum(known), len(known), len(sizes))

    def amount(self, steps: Collection[int]) -> str:
        """Return how many checkpoints these are, and their size unless no size at all is known."""
        has_sizes = steps and self.size_of(self.found).known
        return f"{len(steps):,}" + (f" ({self.size_of(steps)})" if has_sizes else "")


class Api:
    """The checkpoints of one model, over HTTP."""

    def __init__(self, client: httpx2.Client, url: str, token: str) -> None:
        self._client, self._url, self._token = client, url, token
        self.planned = 0
        self.is_done = False  # every step in the plan is deleted, but this is not checked yet
        self.deleted = 0
        self.protected: set[int] = set()  # steps in the plan that the API did not delete
        self.may_have_deleted_more = False  # by a request that failed
        # Of each request that may have deleted something. An unknown id is empty.
        self._request_ids: list[str] = []

    @property
    def known_request_ids(self) -> list[str]:
        """The ids under which the log of ApiFunction shows the deletions."""
        return [*filter(None, dict.fromkeys(self._request_ids))]

    @property
    def unknown_request_ids(self) -> int:
        """How many more requests may have deleted something, such as those without a response."""
        return self._request_ids.count("")

    def list_checkpoints(self) -> dict[int, Checkpoint]:
        """Return all checkpoints of the model that the token can see."""
        found: dict[int, Checkpoint] = {}
        parameters: dict[str, str | int] = {"limit": PAGE_SIZE}
        last: list[int] = []  # the last step of the page before
        with ERRORS.status("Listing checkpoints", spinner="line") as status:
            while True:
                page = self._send(Page, "GET", params=parameters)
                found |= {checkpoint.step: checkpoint for checkpoint in page.data}
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
        response = self._send(Deletion, "DELETE", len(steps), json={"steps": steps})
        self.deleted += response.deleted_count
        if not response.deleted_count:
            self._request_ids.pop()
        self.protected |= set(response.protected_steps).intersection(steps)

    def _send(
        self,
        kind: type[ResponseT],
        method: str,
        deletable: int = 0,
        **content: Any,  # noqa: ANN401
    ) -> ResponseT:
        """Send a request until it succeeds. It is safe to repeat a deletion.

        It can delete at most `deletable` checkpoints. An API that counts more makes no progress, so
        that the attempts end.
        """
        attempts = 0
        while True:
            try:
                return self._send_once(kind, method, **content)
            except AttemptError as error:
                failure = error
            deleted = min(failure.deleted, deletable)
            deletable -= deleted
            if method == "DELETE":
                self.deleted += deleted
                self.may_have_deleted_more |= failure.may_have_deleted_more
                if not failure.deleted and not failure.may_have_deleted_more:
                    self._request_ids.pop()
            attempts = 1 if deleted else attempts + 1
            if failure.is_final:
                raise failure
            if attempts == MAX_ATTEMPTS:
                raise GaveUpError(f"Gave up after {MAX_ATTEMPTS} attempts. {failure}")
            wait = 2.0**attempts if failure.wait is None else min(failure.wait, MAX_WAIT_SECONDS)
            warn(f"{failure} Trying again in {wait:g} s.")
            sleep(wait)

    def _send_once(self, kind: type[ResponseT], method: str, **content: Any) -> ResponseT:  # noqa: ANN401
        if method == "DELETE":
            self._request_ids.append("")
        try:
            response = self._client.request(method, self._url, **content)
        except (httpx2.RequestError, UnicodeError) as error:
            raise self._no_response(error) from error
        if method == "DELETE":
            request_id = response.headers.get(REQUEST_ID, "")
            self._request_ids[-1] = request_id if UUID.fullmatch(request_id) else ""
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

    def apply(found: Checkpoints, _: Options) -> Choice:
        return Choice(dict.fromkeys(sorted(found)[-number:], "last"))

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
    option = f"--keep-best {printable(text)}"

    def apply(found: Checkpoints, options: Options) -> Choice:
        names = set[str]().union(*(checkpoint.metrics for checkpoint in found.values()))
        refuse_other_readings(option, names & {text, f"{metric}:{match[2]}"})
        values = {
            step: each.metrics[metric] for step, each in found.items() if metric in each.metrics
        }
        scored = sorted(values, key=lambda step: (sign * values[step], step))
        if not scored:
            return Choice({}, f"The metrics are: {printable(', '.join(sorted(names)) or 'none')}.")
        kept = dict.fromkeys(scored[-number:], f"{match[2]} {{}}")
        too_few = len(scored) < number
        note = ""
        if too_few:
            have = f"{len(scored):,} of {len(found):,}"
            note = f"Fewer than {number:,} checkpoints have the metric: {have}."
            note += "" if options.delete_unscored else " So this rule keeps every checkpoint."
        elif len(scored) < len(found):
            without = len(found) - len(scored)
            note = f"Checkpoints without the metric: {without:,} of {len(found):,}."
        if not options.delete_unscored:
            last = max(scored)
            for step in found.keys() - scored:
                if step > last:  # training saves checkpoints before they are evaluated
                    kept[step] = "no {} yet"
                elif too_few:
                    kept[step] = "no {}"
        return Choice(kept, note)

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

    def apply(found: Checkpoints, _: Options) -> Choice:
        kept = dict.fromkeys((step for step in found if step % number == 0), reason)
        if max(found) >= number:
            return Choice(kept)
        note = f"This rule alone deletes nothing until a step reaches {number}."
        return Choice(kept, f"{note} The largest step is {max(found)}.", is_too_early=True)

    return Rule(f"--keep-{reason}", apply)


def keep_steps(text: str) -> Rule:
    """Parse the value of --keep: steps, and ranges, which include both ends."""
    ranges = {}
    for part in text.split(","):
        match = re.fullmatch(r"(-?\d{1,100})(?:-(-?\d{1,100}))?", part, re.ASCII)
        if not match or int(match[1]) > int(match[2] or match[1]):
            raise typer.BadParameter(f"{part[:100]!r} is not a step or a range like 5000-5100")
        ranges[part] = (int(match[1]), int(match[2] or match[1]))

    def apply(found: Checkpoints, _: Options) -> Choice:
        kept = [step for step in found if any(a <= step <= z for a, z in ranges.values())]
        absent = [part for part, (a, z) in ranges.items() if not any(a <= s <= z for s in found)]
        note = f"There is no checkpoint at {', '.join(absent)}." if absent else ""
        return Choice(dict.fromkeys(kept, "listed"), note)

    return Rule(f"--keep {text}", apply)


def keep_newer_than(text: str) -> Rule:
    """Parse the value of --keep-newer-than: a duration such as 30d, 24h or 90m."""
    match = re.fullmatch(r"([1-9][0-9]{0,8})([mhd])", text, re.ASCII)
    seconds = int(match[1]) * SECONDS[match[2]] if match else 0
    if not 0 < seconds <= MAX_DURATION:
        raise typer.BadParameter(
            f"{text[:100]!r} is not a duration such as 30d, 24h or 90m (at most 100 years)"
        )

    def apply(found: Checkpoints, options: Options) -> Choice:
        times = {step: checkpoint.created_at for step, checkpoint in found.items()}
        start = options.now - seconds
        kept = [step for step, saved in times.items() if saved is not None and saved >= start]
        undecided = [step for step, saved in times.items() if saved is None]
        note = "" if kept else "No checkpoint is that new, so this rule alone deletes nothing."
        reasons = dict.fromkeys(kept, f"newer than {text}")
        return Choice(reasons, note, is_too_early=not kept, undecided=undecided)

    return Rule(f"--keep-newer-than {text}", apply)


def positive(text: str) -> int:
    """Parse a number of 1 or more."""
    if not re.fullmatch(r"0*[1-9]\d{0,99}", text, re.ASCII):
        raise typer.BadParameter(f"{text[:100]!r} is not a number of 1 or more")
    return int(text)


def choose(options: Options, found: Checkpoints) -> Plan:
    """Apply the rules to the checkpoints of a model, of which there is at least one."""
    kept: dict[int, list[Reason]] = {}
    notes = []
    is_too_early = not options.all
    choices = [(rule, rule.apply(found, options)) for rule in options.rules]
    for rule, choice in choices:
        is_too_early &= choice.is_too_early
        if not choice.kept and not choice.is_too_early:
            reason = f"{rule.option} keeps nothing. {choice.note}".rstrip()
            raise PruneError(f"{reason} Change or remove this rule.")
        if choice.note:
            notes.append(f"{rule.option}: {choice.note}")
        for step, text in choice.kept.items():
            kept.setdefault(step, []).append(Reason(text, rule.metric))
    protected = {step for step, checkpoint in found.items() if checkpoint.protected}
    for rule, choice in choices:
        refuse_to_guess(rule, sorted(set(choice.undecided) - kept.keys() - protected))
    if is_too_early:
        kept = {step: [Reason("no rule keeps anything")] for step in found}
    for step in protected:
        kept.setdefault(step, []).append(Reason("protected"))
    # Several rules can have the same reason.
    reasons = {step: [*dict.fromkeys(each)] for step, each in kept.items()}
    return Plan(found, reasons, sorted(found.keys() - kept.keys()), notes, is_too_early)


def refuse_to_guess(rule: Rule, undecided: Sequence[int]) -> None:
    """Refuse --keep-newer-than if it cannot know whether to keep the checkpoints at these steps."""
    if undecided:
        raise PruneError(
            f"{rule.option} cannot know whether to keep {len(undecided):,} of the checkpoints, "
            f"{where(undecided)}: they have no created_at. Keep them with --keep, or with another "
            "rule, or remove this rule."
        )


def show_plan(model: str, plan: Plan, options: Options, label: str) -> None:
    """Print what is kept and why, and what is deleted."""
    console = options.console
    kept = plan.amount(plan.kept)
    say(f"Checkpoints of {model}: {len(plan.found):,}. To keep: {kept}.", console)
    if plan.kept:
        show_kept(plan, [rule.metric for rule in options.rules if rule.metric], console)
    for note in plan.notes:
        warn(f"{label}{note}")
    if plan.is_too_early:
        text = "The rules keep nothing, so nothing is deleted. To delete everything, use --all."
    elif plan.to_delete:
        text = f"To delete: {plan.amount(plan.to_delete)}, {where(plan.to_delete)}."
    else:
        text = "There is nothing to delete."
    say(text, console)
    if plan.to_delete and plan.to_delete[-1] == max(plan.found):
        say(
            "The newest checkpoint is among them. A run that resumes from it would fail, and files "
            "that name it, such as latest or latest_checkpointed_iteration.txt, would point to "
            "nothing.",
            console,
        )


def where(steps: Sequence[int]) -> str:
    """Name the steps, or the first and the last of many."""
    if len(steps) > MAX_LISTED_STEPS:
        return f"the first at step {steps[0]}, the last at step {steps[-1]}"
    return f"{'at step' if len(steps) == 1 else 'at steps'} {', '.join(map(str, steps))}"


def show_kept(plan: Plan, metrics_of_rules: Sequence[str], console: Console) -> None:
    """Print a table of what is kept, with as many metrics as fit. Metrics of rules come first."""
    kept = {step: plan.found[step] for step in sorted(plan.kept)}
    others = sorted({name for checkpoint in kept.values() for name in checkpoint.metrics})
    names = [*dict.fromkeys([*metrics_of_rules, *others])]
    has_sizes = plan.size_of(kept).known > 0
    headings = [*(["Size"] if has_sizes else []), *map(shorten, names[:MAX_METRICS])]
    table = Table("Step", "Kept by", *headings, box=box.SIMPLE)
    for step, checkpoint in kept.items():
        size = "" if checkpoint.size_bytes is None else decimal(checkpoint.size_bytes)
        values = [checkpoint.metrics.get(name) for name in names[:MAX_METRICS]]
        numbers = ["" if value is None else f"{value:.6g}" for value in values]
        reasons = ", ".join(reason.short() for reason in plan.kept[step])
        table.add_row(str(step), reasons, *([size] if has_sizes else []), *numbers)
    step_column, kept_by_column, *more_columns = table.columns
    kept_by_column.overflow = step_column.overflow = "fold"
    for column in (step_column, *more_columns):
        column.justify, column.no_wrap = "right", True

    def fits() -> bool:
        return console.measure(table, options=UNLIMITED).minimum <= console.width

    while more_columns and not fits():
        more_columns.pop()
        table.columns.pop()
    step_column.no_wrap = fits()  # rich would cut a step that does not fit
    console.print(table)
    if left_out := len(names) - max(len(more_columns) - has_sizes, 0):
        say(f"Metrics not shown: {left_out:,}.", console)


def say(text: str, console: Console = OUTPUT) -> None:
    """Print text. On a terminal, wrap it between words; otherwise keep it on one line."""
    console.print(text, soft_wrap=not console.is_terminal)


def warn(text: str, console: Messages = ERRORS) -> None:
    """Print text to standard error, if that is possible."""
    try:
        say(text, console)
    except OSError:  # such as a full disk
        console.on_broken_pipe()


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


class Pruning:
    """What one call of the command does with one model."""

    def __init__(self, model: str, api: Api, options: Options, label: str) -> None:
        self._model, self._api, self._options = model, api, options
        self._label = label  # of its messages
        self.plan: Plan | None = None
        self.left: list[int] | None = None  # the steps in the plan that still exist in the end
        self.error = ""

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing more to do."""
        has_nothing_to_do = self.plan is not None and not self.plan.to_delete
        return bool(self.error) or has_nothing_to_do or self.left is not None

    def make_plan(self) -> None:
        """List the checkpoints, and show what is to be kept and deleted."""
        found = self._api.list_checkpoints()
        if found:
            plan = choose(self._options, found)
            show_plan(self._model, plan, self._options, self._label)
        else:
            plan = Plan(found, {}, [], [], is_too_early=False)
            text = f"{self._model} has no checkpoints that this token can see."
            say(text, self._options.console)
        self.plan = plan  # only now, because it is of no use if it cannot be shown

    def delete(self, plan: Plan) -> None:
        """Carry out the plan, and check that everything in it is deleted or protected."""
        api, to_delete = self._api, plan.to_delete
        api.planned = len(to_delete)
        longest = max(len(f"{step},") for step in to_delete)
        size = min(MAX_BATCH_SIZE, (MAX_BODY_BYTES - len('{"steps":[]}')) // longest)
        batches = [to_delete[i : i + size] for i in range(0, len(to_delete), size)]
        for batch in track(batches, "Deleting", console=ERRORS, disable=not ERRORS.is_terminal):
            api.delete(batch)

        api.is_done = True
        now = api.list_checkpoints()
        api.protected &= now.keys()
        self.left = [step for step in to_delete if step in now.keys() - api.protected]
        gone = len(to_delete) - len(self.left) - len(api.protected) - api.deleted
        new = now.keys() - plan.found.keys()
        self._report(f"Deleted: {api.deleted:,}. Kept: {len(now.keys() & plan.kept.keys()):,}.")
        if api.protected:
            steps = sorted(api.protected)
            self._report(f"Protected, so not deleted: {len(steps):,}, {where(steps)}.")
        if gone > 0:
            perhaps = ", or deleted by a request that failed" if api.may_have_deleted_more else ""
            self._report(f"Already deleted{perhaps}: {gone:,}.")
        if new:
            self._report(f"Saved at new steps meanwhile, and kept: {len(new):,}.")
        self._report_request_ids()
        if self.left:
            left = f"{len(self.left):,}, the first at step {self.left[0]}"
            self._fail(f"Not deleted, or saved again: {left}. Run the command again.")

    def stop(self, error: Exception | str, *, is_interrupted: bool = False) -> None:
        """Say why this failed, and how much is deleted."""
        api = self._api
        reason = f"{str(error).rstrip('.')}."
        if api.is_done:
            protected = " or protected" if api.protected else ""
            reason += f" All {api.planned:,} checkpoints in the plan are deleted{protected}, but"
            reason += " this could not be checked."
        elif api.planned:
            is_unknown = is_interrupted or api.may_have_deleted_more
            perhaps = ", and perhaps some more" if is_unknown else ""
            reason += f" Deleted: {api.deleted:,} of {api.planned:,}{perhaps}."
            if is_interrupted or isinstance(error, GaveUpError):
                reason += " To finish, run the command again."
        else:
            reason += " Nothing was deleted."
        self._report_request_ids()
        self._fail(reason)

    def as_json(self) -> dict[str, Any]:
        """Return what is known about the model, as docs/api.md describes it."""
        result: dict[str, Any] = {"model": self._model}
        if self.plan:
            kept, to_delete = self.plan.kept, self.plan.to_delete
            sizes = {"keep": self.plan.size_of(kept), "delete": self.plan.size_of(to_delete)}
            result["keep"] = [
                {"step": step, "reasons": [*map(str, kept[step])]} for step in sorted(kept)
            ]
            result["delete"] = to_delete
            for name, size in sizes.items():
                result[f"{name}_size_bytes"], result[f"{name}_sizes_known"] = size[:2]
        if self._api.planned:
            result["deleted_count"] = self._api.deleted
            result["protected_steps"] = sorted(self._api.protected)
            result["request_ids"] = self._api.known_request_ids
            result["unknown_request_ids"] = self._api.unknown_request_ids
        if self.left is not None:
            result["left"] = self.left
        if self.error:
            result["error"] = self.error
        return result

    def _report_request_ids(self) -> None:
        ids = ", ".join(self._api.known_request_ids)
        if unknown := self._api.unknown_request_ids:
            ids += f"{', and ' if ids else ''}{unknown:,} unknown"
        if ids:
            self._report(f"Request ids: {ids}")

    def _report(self, text: str) -> None:
        """Print a result, if necessary to standard error."""
        if not self._options.json:
            warn(f"{self._label}{text}", RESULTS)
        if self._options.json or RESULTS.quiet:
            warn(f"{self._label}{text}")

    def _fail(self, error: str) -> None:
        self.error = error
        warn(f"prune: {self._label}{error}")


def carry_out(prunings: Sequence[Pruning], options: Options) -> None:
    """Plan for each model, ask once, and delete. If it fails for a model, go on with the others."""
    for pruning in prunings:
        if pruning is not prunings[0]:
            say("", options.console)
        try:
            pruning.make_plan()
        except PruneError as error:
            pruning.stop(error)
    plans = [
        (pruning, pruning.plan) for pruning in prunings if pruning.plan and not pruning.is_finished
    ]
    if not plans:
        return
    if len(prunings) > 1:
        sizes = [plan.size_of(plan.to_delete) for _, plan in plans]
        total = Size(*map(sum, zip(*sizes, strict=True)))
        amount = f"{total.of:,} ({total})" if total.known else f"{total.of:,}"
        models = f"{len(plans):,} of {len(prunings):,} models"
        say(f"To delete in total: {amount}, from {models}.", options.console)
    if options.dry_run:
        return
    if not options.yes:
        ask(options)
    for pruning, plan in plans:
        try:
            pruning.delete(plan)
        except PruneError as error:
            pruning.stop(error)


def ask(options: Options) -> None:
    """Ask once whether to delete everything in the plans."""
    # Python sets a stream to None if it is closed, as with `<&-`.
    output = sys.stderr if options.json else sys.stdout
    if not (sys.stdin and sys.stdin.isatty() and output):
        raise PruneError("Without a terminal, add --yes to confirm.")
    with redirect_stdout(output):
        if not typer.confirm("Delete them?"):
            raise PruneError("Not confirmed.")


def run(prunings: Sequence[Pruning], options: Options) -> int:
    """Prune the models. If something stops this, say so for each that is not finished.

    Return the exit code.
    """
    code = 0
    reason: Exception | str = ""
    try:
        carry_out(prunings, options)
    except (PruneError, OSError) as error:  # an OSError if the disk of the output is full
        code, reason = 1, error
        if isinstance(error, OSError) and not options.json:
            RESULTS.on_broken_pipe()
    except (KeyboardInterrupt, typer.Abort) as error:
        code, reason = INTERRUPTED, "Interrupted"
        # Typer turns Ctrl-C at the question into Abort, and Ctrl-D too, which means no.
        if isinstance(error, typer.Abort):
            warn("")  # ends the line of the question
        if isinstance(error.__context__, EOFError):
            code, reason = 1, "Not confirmed"
    for pruning in prunings:
        if reason and not pruning.is_finished:
            pruning.stop(reason, is_interrupted=code == INTERRUPTED)
    return code or int(any(pruning.error for pruning in prunings))


def write_json(models: Sequence[dict[str, Any]]) -> int:
    """Write the results to standard output, and return the exit code."""
    try:
        RESULTS.out(json.dumps({"models": models}))
    except OSError as error:  # such as a full disk
        warn(f"prune: {error}")
        RESULTS.on_broken_pipe()
    return int(RESULTS.quiet)


def read_settings() -> tuple[str, str]:
    """Return the URL of the API, and the token."""
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
    return url, token


def url_of(model: str, url: str) -> str:
    """Return the URL of the model's checkpoints."""
    # Encode dots too, because the path segments "." and ".." have a special meaning.
    segment = quote(model, safe="").replace(".", "%2E")
    return f"{url.rstrip('/')}/v1/preview/models/{segment}/checkpoints"


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
    """Return an HTTP client with the settings of the environment.

    Raises:
        PruneError: one of the settings is wrong.

    """
    headers = {"Authorization": f"Bearer {token}"}
    # This machine is never reached through a proxy. A client with a transport does not use any.
    is_local = httpx2.URL(url).host in {"127.0.0.1", "localhost", "::1"}
    try:
        transport = httpx2.HTTPTransport() if is_local else None
        return httpx2.Client(headers=headers, timeout=TIMEOUT, transport=transport)
    except (OSError, ImportError, ValueError, httpx2.InvalidURL):  # SOCKS needs another library
        hints = f"{PROXY_HINT} {CERTIFICATE_HINT}"
        raise PruneError(f"The HTTP client cannot start. {hints} Nothing was deleted.") from None


def check_models(models: Sequence[str]) -> None:
    """Refuse an id that no model can have, or that looks like the value of an option.

    With a blank instead of a comma, as in `--keep 100 200`, the second value would be a model, and
    step 200 would be deleted.
    """
    for model in models:
        if not model.isprintable() or not model:
            raise typer.BadParameter(
                "A model id must be printable and not empty.", param_hint="MODEL"
            )
        for parse in (keep_steps, keep_best, keep_newer_than) if len(models) > 1 else ():
            if is_valid(parse, model):
                raise typer.BadParameter(
                    f"{model!r} looks like a value of an option. If it is a model, prune it alone.",
                    param_hint="MODEL",
                )


def is_valid(parse: Callable[[str], Rule], text: str) -> bool:
    """Return whether this is a value of the option that `parse` reads."""
    try:
        parse(text)
    except typer.BadParameter:
        return False
    return True


def prune_models(models: Sequence[str], options: Options, url: str, token: str) -> int:
    """Prune the models, and return the exit code."""
    try:
        client = open_client(url, token)
    except PruneError as error:
        warn(f"prune: {error}")
        if options.json:
            write_json([{"model": model, "error": str(error)} for model in models])
        return 1
    with client:
        prunings = [
            Pruning(
                model,
                Api(client, url_of(model, url), token),
                options,
                label=f"{model}: " if len(models) > 1 else "",
            )
            for model in models
        ]
        code = run(prunings, options)
    if options.json:
        code = write_json([pruning.as_json() for pruning in prunings]) or code
    return code


Rules = list[Rule] | None


@app.command()
def prune(  # noqa: PLR0913, PLR0917 one parameter for each option
    model: Annotated[list[str], Argument(metavar="MODEL", help="Ids of the models.")],
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
    newer_than: Annotated[
        Rules,
        Option(
            "--keep-newer-than",
            metavar="DURATION",
            parser=keep_newer_than,
            help="Keep what was saved in this period until now, such as 30d, 24h or 90m. This "
            "compares created_at with the clock of this machine.",
        ),
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
            help="With --keep-best: do not keep checkpoints only because they lack the metric.",
        ),
    ] = False,
    is_all: Annotated[
        bool, Option("--all", help="Delete everything that is not protected.")
    ] = False,
    dry_run: Annotated[bool, Option("--dry-run", help="Only show the plan.")] = False,
    yes: Annotated[bool, Option("--yes", help="Do not ask before deleting.")] = False,
    is_json: Annotated[
        bool, Option("--json", help="Print the results as JSON, and other text to standard error.")
    ] = False,
) -> None:
    """Delete the checkpoints of models, except those to keep.

    Each --keep option is a rule. You can combine and repeat them: a checkpoint is kept if any rule
    keeps it. Protected checkpoints are always kept. A rule that keeps nothing is an error, so that
    a mistake deletes nothing. Two rules can keep nothing without an error: --keep-newer-than, and
    --keep-every N while all steps are below N. If no other rule is given, nothing is deleted then.

    --keep-newer-than fails if a checkpoint that nothing else keeps has no created_at.

    The newest checkpoints may not be evaluated yet, so --keep-best also keeps all checkpoints after
    the largest step that has the metric. If fewer than N have the metric, --keep-best keeps all
    checkpoints. With --delete-unscored, --keep-best does neither.

    The command shows a plan for each model, and asks once before it deletes. Checkpoints that are
    saved at new steps after the plan are kept. But if a checkpoint in the plan is saved again, it
    is deleted. If the command fails for a model, it goes on with the others.

    Set CHECKPOINTS_API_URL to the URL of the API, with its stage if it has one, and
    CHECKPOINTS_TOKEN to a token with the scopes checkpoints:read and checkpoints:delete.

    \b
    Examples of MODEL and options:
      resnet-50 --keep-last 5 --dry-run
      resnet-50 --keep-best val/reward:max --keep-best val/loss:min=3
      resnet-50 --keep-every 1000 --keep 4200,5000-5100 --yes
      resnet-50 gpt-small --keep-last 2 --keep-newer-than 24h --yes --json

    Exit codes: 0 done, also if there was nothing to delete; 1 failed, not confirmed or only partly
    done, for at least one model; 2 wrong usage; 130 interrupted.
    """  # noqa: D301 Typer does not wrap a paragraph that begins with a backspace
    # Print an escape for what the encoding lacks, such as cp1252 on Windows. stderr always does so.
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    rules = [rule for each in (last, best, every, newer_than, steps) for rule in each or []]
    options = Options(rules, delete_unscored, is_all, dry_run, yes, is_json, now=time())
    models = [*dict.fromkeys(model)]
    check_models(models)
    if bool(rules) == is_all:
        raise typer.BadParameter("Give --keep rules, or --all to delete everything, not both.")
    if delete_unscored and not best:
        raise typer.BadParameter("--delete-unscored needs --keep-best.")
    url, token = read_settings()
    raise typer.Exit(prune_models(models, options, url, token))


if __name__ == "__main__":
    app(windows_expand_args=False)  # a model id is not a pattern for names of files
