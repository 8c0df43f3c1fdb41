"""Find the checkpoints in a bucket by their names, as training libraries choose them.

It only looks at what S3 lists: keys, sizes and dates. The memory it needs depends on the number of
checkpoints, not on that of objects.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple

import typer

from cli.errors import CommandError

MODEL_PLACEHOLDER, STEP_PLACEHOLDER = "{model}", "{step}"
TRAINER_STATE = "trainer_state.json"

_EARLIEST = datetime.min.replace(tzinfo=UTC)

# Below a folder with a known name, one of these makes it a checkpoint.
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".distcp")

# What an object beside an unfinished checkpoint ends with: in NeMo, and in programs that upload to
# SageMaker's folder for checkpoints.
UNFINISHED_SUFFIXES = ("-unfinished", ".sagemaker-uploading")


class Reason(StrEnum):
    """Why something is not registered; each has its sentence."""

    NO_WEIGHTS = "no weights file is in it, and nothing else that its library writes"
    STAGE = "several other checkpoints seem to be inside, so it is not a checkpoint itself"
    NESTED = "a checkpoint of another step is inside it, or it is inside one"
    SEVERAL_RANKS = "each rank has a file of its own, and a record has one URI"
    NOT_WHOLE = "the prefix is its folder, or is inside it; use a shorter prefix"
    HAS_RECORD = "the record of this model and step names other objects, or none"
    SAME_STEP = "there are several checkpoints of this model and step"
    OVERLAP = "another checkpoint has the same objects"
    OVERLAPS_RECORD = "a record of another checkpoint has the same objects, or some of them"
    INVALID_MODEL = "the path before it cannot be the id of a model"
    INVALID_STEP = "DynamoDB cannot hold its step"
    INVALID_URI = "ReclaimFunction would refuse its URI"
    UNFINISHED = "it is not complete: it has the mark of a save or an upload that goes on"
    TOO_YOUNG = "its newest object is younger than --min-age; it waits for the next run"
    # These are not known names, so nothing says that they are checkpoints.
    STEP_FOLDER = (
        "step_N/ counts only directly below checkpoints/, or if it has a training_info.json"
    )
    COPY = "the name is that of a copy: last, best or final"
    NO_STEP = "the name has no step, or more than one"
    SEVERAL_FILES = "its files have no folder of their own, and a record has one URI"
    NUMBER = "a number alone could be a date; name it with --pattern"
    ANOTHER_NAME = (
        "the name is none of the known ones, or has a prefix or a suffix; name it with --pattern"
    )


# What is left out for these reasons does not change what the folder around it is.
NO_CHECKPOINT = (Reason.STAGE, Reason.NO_WEIGHTS)


@dataclass(slots=True)
class Found:
    """A checkpoint in the bucket, or what looks like one, with its objects added up."""

    model_id: str
    step: int
    name: str  # what matched, such as `checkpoint-N/`
    key: str  # of its object, or the prefix of its objects, with a closing slash
    size: int = 0
    newest: datetime = _EARLIEST
    newest_key: str = ""
    newest_size: int = 0
    trainer_state_size: int | None = None
    unfinished: bool = False
    reason: Reason | None = None

    def add(self, key: str, size: int, modified: datetime) -> None:
        """Add one of its objects."""
        self.size += size
        if modified > self.newest:
            self.newest, self.newest_key, self.newest_size = modified, key, size


class Match(NamedTuple):
    """A name that matched, with what must be in the folder."""

    model_id: str
    step: int
    name: str
    evidence: re.Pattern[str] | None = None  # of a path in the folder, instead of weights
    required: re.Pattern[str] | None = None  # of a path in the folder, besides
    reason: Reason | None = None  # set if the name is not a known one


class _Name(NamedTuple):
    """A known name of a folder."""

    label: str
    pattern: re.Pattern[str]
    evidence: re.Pattern[str] | None = None


_FOLDERS = [
    _Name(label, re.compile(pattern), re.compile(evidence) if evidence else None)
    for label, pattern, evidence in [
        (
            "checkpoint-N/",
            r"checkpoint-([0-9]+)",
            r"trainer_state\.json|CHECKPOINT_COMPLETE|random_states_0\.pkl",
        ),
        ("iter_N/", r"iter_([0-9]{7,})", r"\.metadata|metadata\.json|mp_rank_.*"),
        ("global_stepN/", r"global_step([0-9]+)", None),
        ("global_step_N/", r"global_step_([0-9]+)", None),
        (
            "step-N/",
            r"step-([0-9]+)",
            r"\.metadata|metadata\.json|model\.safetensors\.index\.json|lit_model\.pth[^/]*",
        ),
        ("stepN/", r"step([0-9]+)", r"\.metadata\.json|train\.pt"),
        ("step_N/", r"step_([0-9]+)", r"trainer/\.metadata|training_info\.json"),
        ("epE-baN/", r"ep[0-9]+-ba([0-9]+)", r"\.metadata"),
    ]
]
_TRAINING_INFO = re.compile(r"training_info\.json")
# Lightning and NeMo. With a letter before it, it is another word, such as `timestep`.
_STEP_IN_NAME = re.compile(r"(?<![^\W\d_])step=([0-9]+)(?![0-9A-Za-z]|\.[0-9])")
# What a program adds to a name of Lightning or NeMo for a second file of this name.
_TWIN = re.compile(r"(?:-v[0-9]+|-EMA)+\Z")
_COPY = re.compile(r"last.*|.*-last|best|final", re.DOTALL)
# What programs put around a name while they save or swap it, or if they convert it.
_CHANGED = re.compile(
    r"(?:tmp[-_]|old_).*"
    r"|.*(?:[-_.](?:backup|bak|evals|hf|merged|tmp|unfinished)|\.orbax-checkpoint-tmp.*)",
    re.DOTALL,
)
_LIGHTNING_EVIDENCE = re.compile(r"latest|weights/.*", re.DOTALL)
_NEMO_WEIGHTS = re.compile(r"weights/.*", re.DOTALL)
_COMPOSER_FILE = re.compile(r"(ep[0-9]+-ba([0-9]+)-rank)([0-9]+)\.pt")
_ART_PARENTS = re.compile(r"(?:.*/)?models/[^/]+/checkpoints/", re.DOTALL)
_ART_FOLDER = re.compile(r"[0-9]{4,}")

_ANYTHING = re.compile(".*", re.DOTALL)

# Names that look like those of checkpoints, so that the plan mentions them.
_NUMBER = re.compile(r"[0-9]+")
_SIMILAR = re.compile(r"(checkpoint|ckpt|epoch|iter|step)[-_=]?([0-9]+)")


class KnownNames:
    """The names that libraries give their checkpoints, each of them a whole segment of a path."""

    def match_folder(self, parent: str, segment: str) -> Match | None:
        """Return what the name of a folder says. `parent` is empty, or ends with a slash."""
        model_id = _model_id(parent)
        for name in _FOLDERS:
            if match := name.pattern.fullmatch(segment):
                found = Match(model_id, int(match[1]), name.label, name.evidence)
                if name.label == "step_N/" and not re.search(r"(?:\A|/)checkpoints/\Z", parent):
                    return found._replace(required=_TRAINING_INFO, reason=Reason.STEP_FOLDER)
                return found
        step = _step_in_name(segment)
        if isinstance(step, int):
            found = Match(model_id, step, "step=N.ckpt/", _LIGHTNING_EVIDENCE)
            if segment.endswith(".ckpt"):
                return found
            return found._replace(
                name="step=N/", required=_NEMO_WEIGHTS, reason=Reason.ANOTHER_NAME
            )
        if _ART_FOLDER.fullmatch(segment) and _ART_PARENTS.fullmatch(parent):
            return Match(model_id, int(segment), "models/NAME/checkpoints/N/")
        return _match_similar(segment)

    def match_file(self, parent: str, segment: str) -> Match | None:
        """Return what the name of a file says."""
        if segment.endswith(".ckpt"):
            step = _step_in_name(segment)
            if isinstance(step, Reason):
                return Match("", 0, "", reason=step)
            return Match(_model_id(parent), step, "step=N.ckpt")
        if match := _COMPOSER_FILE.fullmatch(segment):
            reason = None if match[3] == "0" else Reason.SEVERAL_RANKS
            return Match(_model_id(parent), int(match[2]), "epE-baN-rank0.pt", reason=reason)
        if segment.endswith((*WEIGHTS, ".keras", ".index")) and _SIMILAR.search(segment):
            is_tensorflow = segment.endswith(".index")
            reason = Reason.SEVERAL_FILES if is_tensorflow else Reason.ANOTHER_NAME
            return Match("", 0, "", reason=reason)
        return None


def _match_similar(segment: str) -> Match | None:
    if _NUMBER.fullmatch(segment):
        return Match("", 0, "", reason=Reason.NUMBER)
    return Match("", 0, "", reason=Reason.ANOTHER_NAME) if _SIMILAR.search(segment) else None


def _model_id(parent: str) -> str:
    path = parent.removesuffix("/")
    return re.sub(r"/checkpoints?\Z", "", path)


def _step_in_name(segment: str) -> int | Reason:
    """Return the step in a name of Lightning or NeMo, or why there is none."""
    stem = _TWIN.sub("", segment.removesuffix(".ckpt"))
    steps = {int(digits) for digits in _STEP_IN_NAME.findall(stem)}
    if _COPY.fullmatch(stem):
        return Reason.COPY
    if len(steps) != 1:
        return Reason.NO_STEP
    return Reason.ANOTHER_NAME if _CHANGED.fullmatch(stem) else steps.pop()


def _numbers_in(segment: str) -> tuple[tuple[str, int], ...]:
    """Return the numbers in a name that looks like a checkpoint, each with the word before it."""
    if _NUMBER.fullmatch(segment):
        return (("", int(segment)),)
    return tuple((word, int(digits)) for word, digits in _SIMILAR.findall(segment))


class Pattern:
    """Names that the user describes with `--pattern`. No weights file is needed."""

    def __init__(self, text: str) -> None:
        segments = text.removesuffix("/").split("/")
        if segments.count(MODEL_PLACEHOLDER) != 1 or text.count(STEP_PLACEHOLDER) != 1:
            raise typer.BadParameter(
                f"It needs {MODEL_PLACEHOLDER} once, as a whole segment between slashes, and "
                f"{STEP_PLACEHOLDER} once, such as '{{model}}/epoch_*/{{step}}/'."
            )
        # Without a digit beside it, so that `*` takes no part of the number.
        step = "(?<![0-9])(?P<step>[0-9]+)(?![0-9])"
        known = {MODEL_PLACEHOLDER: "(?P<model>.+)", STEP_PLACEHOLDER: step}
        parts = re.split(r"(\{[^{}/]*\})", text)
        for part in parts[1::2]:
            if part not in known or text.count(part) > 1:
                raise typer.BadParameter(
                    f"{part!r} is not {{model}} or {{step}}, or is there twice."
                )
        expression = "".join(known.get(part) or _wildcards(part) for part in parts)
        self._expression = re.compile(expression, re.DOTALL)
        self._is_folder = text.endswith("/")
        self.text = text

    def match_folder(self, parent: str, segment: str) -> Match | None:
        """Return what the path of a folder says."""
        return self._match(f"{parent}{segment}/") if self._is_folder else None

    def match_file(self, parent: str, segment: str) -> Match | None:
        """Return what the key of an object says."""
        return None if self._is_folder else self._match(f"{parent}{segment}")

    def _match(self, path: str) -> Match | None:
        match = self._expression.fullmatch(path)
        return Match(match["model"], int(match["step"]), self.text, _ANYTHING) if match else None


def _wildcards(text: str) -> str:
    """Return an expression for a text in which `*` is anything but a slash.

    Only the last `*` backtracks, because many that do would take hours for one key. For the others,
    the first place where the text after them occurs is as good as any.
    """
    first, *others = map(re.escape, re.split(r"\*+", text))
    between = "".join(f"(?>[^/]*?{each})" for each in others[:-1])
    return first + between + "".join(f"[^/]*{each}" for each in others[-1:])


@dataclass(slots=True)
class _Candidate:
    """A folder whose name matched, while its objects are being read."""

    path: str
    match: Match
    found: Found
    first_below: int  # the index of the first checkpoint that was found in it
    similar_before: int
    has_evidence: bool = False
    has_required: bool = False
    # The numbers in each name inside that is not known, but looks like a checkpoint.
    inside: set[tuple[tuple[str, int], ...]] = field(default_factory=set)

    @property
    def is_stage(self) -> bool:
        """Whether several checkpoints seem to be inside, whose names are not known."""
        numbers = {name[0][1] for name in self.inside if not name[0][0]}
        are_ranks = numbers == set(range(len(numbers)))
        return len(self.inside) - (len(numbers) if are_ranks else 0) > 1

    def add(self, key: str, size: int, modified: datetime) -> None:
        """Add an object of the folder."""
        path = key[len(self.path) :]
        evidence, required = self.match.evidence, self.match.required
        self.found.add(key, size, modified)
        self.has_evidence = self.has_evidence or bool(
            path.endswith(WEIGHTS) or (evidence and evidence.fullmatch(path))
        )
        self.has_required = self.has_required or bool(required and required.fullmatch(path))
        self.found.unfinished = self.found.unfinished or _marks_unfinished(path)
        if path == TRAINER_STATE:
            self.found.trainer_state_size = size


class Finder:
    """Finds checkpoints in the objects of a bucket, which must come in the order of their keys.

    `missing` are those of the `registered` keys and prefixes for which no object came. `similar`
    counts names that are not known but look like checkpoints, with the key of one of them.
    """

    def __init__(
        self, names: KnownNames | Pattern, *, prefix: str = "", registered: Iterable[str] = ()
    ) -> None:
        self._names = names
        self._prefix = prefix
        self.missing = set(registered) - {""}  # a URI of the whole bucket names no checkpoint
        self.similar: dict[Reason, tuple[int, str]] = {}
        self._similar_count = 0
        self._found: list[Found] = []
        self._files: dict[str, Found] = {}
        self._marked: set[str] = set()  # keys beside which an object says that they are unfinished
        self._open: list[tuple[str, _Candidate | None]] = []  # each folder of the current path
        self._candidates: list[_Candidate] = []  # those of them whose names matched
        self._last_key = self._last_folder = ""

    def add(self, key: str, size: int, modified: datetime) -> None:
        """Read the next object.

        Raises:
            CommandError: the key is not after the last one.

        """
        if key <= self._last_key:
            raise CommandError(
                "S3 did not list the keys in order, as in a directory bucket. Such a bucket cannot "
                "be imported."
            )
        self._last_key = key
        folder = key[: key.rfind("/") + 1]
        self._enter(folder)
        if key == folder and not size:  # the marker of an empty folder
            return
        if folder != self._last_folder:
            for path, _ in self._open:
                self.missing -= {path, path[:-1]}
            self._last_folder = folder
        self.missing.discard(key)
        self._add_file(folder, Found("", 0, "", key, size, modified, key, size))
        for candidate in self._candidates:
            candidate.add(key, size, modified)

    def finish(self) -> list[Found]:
        """Return what was found."""
        self._enter("")
        for found in self._found:
            path = found.key.removesuffix("/")
            stem = path.removesuffix(".ckpt").removesuffix("-EMA")
            found.unfinished |= not self._marked.isdisjoint((path, stem))
        return self._found

    def _enter(self, folder: str) -> None:
        """Close the folders that are left, and open those that are entered."""
        while self._open and not folder.startswith(self._open[-1][0]):
            _, candidate = self._open.pop()
            if candidate:
                self._candidates.pop()
                self._close(candidate)
        path = self._open[-1][0] if self._open else ""
        for segment in folder[len(path) :].split("/")[:-1]:
            parent, path = path, f"{path}{segment}/"
            candidate = None
            if match := self._names.match_folder(parent, segment):
                found = Found(match.model_id, match.step, match.name, path)
                count = len(self._found), self._similar_count
                candidate = _Candidate(path, match, found, *count)
                self._candidates.append(candidate)
            self._open.append((path, candidate))
            if file := self._files.get(path[:-1]):
                file.reason = Reason.INVALID_URI  # its URI could mean this folder

    def _add_file(self, folder: str, found: Found) -> None:
        name = found.key[len(folder) :]
        for suffix in UNFINISHED_SUFFIXES:
            if name.endswith(suffix):
                self._marked.add(found.key.removesuffix(suffix))
        match = self._names.match_file(folder, name)
        if not match:
            return
        if match.reason and match.reason != Reason.SEVERAL_RANKS:
            self._count_similar(match.reason, found.key)
            self._note_inside(name)
            return
        if match.reason and self._found and _are_ranks(found, self._found[-1]):
            self._found[-1].reason = match.reason
            return
        found.model_id, found.step, found.name = match.model_id, match.step, match.name
        found.reason = match.reason
        self._found.append(found)
        self._files[found.key] = found

    def _count_similar(self, reason: Reason, key: str) -> None:
        if all(each.match.reason for each in self._candidates):  # else it is part of a checkpoint
            count, example = self.similar.get(reason, (0, key))
            self.similar[reason] = count + 1, example
            self._similar_count += 1

    def _note_inside(self, segment: str) -> None:
        if numbers := _numbers_in(segment):
            for each in self._candidates:
                each.inside.add(numbers)

    def _close(self, folder: _Candidate) -> None:
        match, found = folder.match, folder.found
        below = self._found[folder.first_below :]
        # The mark of an unfinished one can be beside its folder.
        is_whole = folder.path.startswith(self._prefix) and folder.path != self._prefix
        if match.reason and not folder.has_required:
            is_innermost = not below and folder.similar_before == self._similar_count
            if folder.has_evidence and is_innermost:
                self._count_similar(match.reason, folder.path)
            if folder.has_evidence and not folder.inside:
                self._note_inside(folder.path.split("/")[-2])
            return
        if is_whole and not folder.has_evidence:
            if not below:
                found.reason = Reason.NO_WEIGHTS
                self._found.append(found)
            return
        other_steps = {
            each.step
            for each in below
            if each.reason not in NO_CHECKPOINT and not _is_deepspeed_part(each, found)
        } - {found.step}
        if len(other_steps) > 1 or folder.is_stage:
            found.reason = Reason.STAGE
        elif other_steps:
            for each in (found, *below):
                each.reason = Reason.NESTED
        else:
            for each in below:
                self._files.pop(each.key, None)
            del self._found[folder.first_below :]
            found.reason = None if is_whole else Reason.NOT_WHOLE
        self._found.append(found)


def _marks_unfinished(path: str) -> bool:
    """Return whether a checkpoint that has such an object is still being saved or uploaded."""
    return (
        path == "checkpoint-is-incomplete.txt"  # Transformers, while a signal ends the job
        or ".orbax-checkpoint-tmp" in path
        or path.endswith(".sagemaker-uploading")
    )


def _are_ranks(one: Found, other: Found) -> bool:
    """Return whether two files of Composer are ranks of one checkpoint."""
    return _COMPOSER_FILE.sub(r"\1", one.key) == _COMPOSER_FILE.sub(r"\1", other.key)


def _is_deepspeed_part(inner: Found, outer: Found) -> bool:
    """Return whether it is the folder that DeepSpeed writes into a checkpoint of Transformers."""
    return (outer.name, inner.name) == ("checkpoint-N/", "global_stepN/") and (
        inner.key.count("/") == outer.key.count("/") + 1
    )
