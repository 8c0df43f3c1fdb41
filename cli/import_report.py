"""Print what an import would do, and what it did: for people, or as JSON."""

import shlex
import sys
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from textwrap import wrap
from typing import Any

from rich.filesize import decimal
from rich.table import Table

from cli.import_plan import Key, ModelPlan
from cli.layouts import Found, Reason
from cli.options import Location
from cli.steps import format_steps
from cli.terminal import console, printable

MAX_LISTED = 20  # models for each reason, and keys; --json has all
MAX_COMMAND_CHARACTERS = 4_000


@dataclass
class Plan:
    """What an import would do."""

    stack: str
    location: Location
    entity: str
    models: dict[str, ModelPlan] = field(default_factory=dict)
    similar: dict[Reason, tuple[int, str]] = field(default_factory=dict)
    missing: list[Key] = field(default_factory=list)  # the records without any object

    @property
    def new(self) -> list[Found]:
        """The checkpoints to register."""
        return [found for model in self.models.values() for found in model.new]

    def show(self) -> None:
        """Print it for people."""
        output = console()
        if self.models:
            output.print(self._table())
        for reason in Reason:
            lines = [
                f"{len(left_out):,} of {printable(model_id)}, such as {printable(left_out[0].key)}"
                for model_id, model in self.models.items()
                if (left_out := model.left_out.get(reason, []))
            ]
            if more := lines[MAX_LISTED:]:
                lines[MAX_LISTED:] = [f"and of {len(more):,} more models (see --json)"]
            if reason in self.similar:
                count, example = self.similar[reason]
                lines.append(f"{count:,}, such as {printable(example)}")
            if lines:
                print(f"Left out: {reason}", *lines, sep="\n  ")
        if self.missing:
            print("Registered, but without any object here. To remove these records:")
            commands = chain.from_iterable(self._forget_commands().values())
            print(*(f"  {command}" for command in commands), sep="\n")
        if new := self.new:
            size = decimal(sum(each.size for each in new))
            print(f"To register for the entity {self.entity!r}: {len(new):,} ({size}).")
        else:
            print(f"There is nothing new to register in {printable(self.location.uri)}.")

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for heading in ("MODEL", "NEW", "SIZE", "STEPS", "NAME", "REGISTERED", "LEFT OUT"):
            is_text = heading in ("MODEL", "NAME")
            table.add_column(heading, overflow="fold", justify="left" if is_text else "right")
        for model_id, model in self.models.items():
            steps = sorted(each.step for each in model.new)
            table.add_row(
                printable(model_id),
                f"{len(steps):,}",
                decimal(sum(each.size for each in model.new)) if steps else "",
                f"{steps[0]} to {steps[-1]}" if steps else "",
                ", ".join(sorted({each.name for each in model.new})),
                f"{model.registered:,}",
                f"{sum(map(len, model.left_out.values())):,}",
            )
        return table

    def _missing_steps(self) -> dict[str, list[int]]:
        steps: dict[str, list[int]] = {}
        for model_id, step in sorted(self.missing):
            steps.setdefault(model_id, []).append(step)
        return steps

    def _forget_commands(self) -> dict[str, list[str]]:
        """Return the commands for each model. A shell limits the length of one."""
        program = sys.argv[0] if Path(sys.argv[0]).name == "checkpoints" else "checkpoints"
        start = [*(program, "records", "forget", "--stack", self.stack)]
        commands = {}
        for model_id, steps in self._missing_steps().items():
            separator = ["--"] if model_id.startswith("-") or steps[0] < 0 else []
            command = " ".join(map(quote, [*start, *separator, model_id]))
            lists = wrap(
                format_steps(steps).replace(",", " "),
                max(MAX_COMMAND_CHARACTERS - len(command), 1),
                break_long_words=False,
                break_on_hyphens=False,
            )
            commands[model_id] = [f"{command} {each.replace(' ', ',')}" for each in lists]
        return commands

    def to_json(self) -> dict[str, Any]:
        """Return it for programs."""
        commands = self._forget_commands()
        return {
            "bucket": self.location.bucket,
            "prefix": self.location.prefix,
            "entity": self.entity,
            "models": [
                {
                    "model_id": model_id,
                    "new_steps": sorted(each.step for each in model.new),
                    "size_bytes": sum(each.size for each in model.new),
                    "names": sorted({each.name for each in model.new}),
                    "registered_count": model.registered,
                    "left_out": [
                        _describe(reason, len(left_out), left_out[0].key)
                        for reason, left_out in model.left_out.items()
                    ],
                }
                for model_id, model in self.models.items()
            ],
            "not_recognised": [
                _describe(reason, count, example)
                for reason, (count, example) in self.similar.items()
            ],
            "without_objects": [
                {"model_id": model_id, "steps": steps, "commands": commands[model_id]}
                for model_id, steps in self._missing_steps().items()
            ],
        }


def _describe(reason: Reason, count: int, example: str) -> dict[str, Any]:
    return {
        "reason": reason.name.lower(),
        "message": str(reason),
        "count": count,
        "example": example,
    }


@dataclass
class Outcome:
    """What an import did."""

    planned: int = 0
    registered: list[Key] = field(default_factory=list)
    meanwhile: list[Key] = field(default_factory=list)  # another program registered them
    gone: list[Key] = field(default_factory=list)  # their objects are deleted
    changed: list[Key] = field(default_factory=list)  # their objects are saved again
    denied: list[str] = field(default_factory=list)  # the keys of files that it may not read
    warnings: dict[str, list[str]] = field(default_factory=dict)  # with the keys of objects

    @property
    def unconfirmed(self) -> int:
        """How many may have been registered or not, because the command stopped."""
        done = [*self.registered, *self.meanwhile, *self.gone, *self.changed, *self.denied]
        return self.planned - len(done)

    def show(self, *, to_stderr: bool) -> None:
        """Print it for people."""
        output = sys.stderr if to_stderr else sys.stdout
        print(f"Registered: {len(self.registered):,}.", file=output)
        if self.meanwhile:
            print(f"Registered meanwhile, not by this run: {len(self.meanwhile):,}.", file=output)
        if self.gone:
            print(f"Deleted meanwhile, so not registered: {len(self.gone):,}.", file=output)
        if self.changed:
            count = len(self.changed)
            print(f"Changed meanwhile, so they wait for the next run: {count:,}.", file=output)
        if self.unconfirmed:
            print(f"Not confirmed to be registered: {self.unconfirmed:,}.", file=output)
        for warning, keys in self.warnings.items():
            example = printable(keys[0])
            print(f"Warning: {warning} {len(keys):,}, such as {example}", file=sys.stderr)
        if self.denied:
            keys = [printable(each) for each in sorted(self.denied)]
            if more := keys[MAX_LISTED:]:
                keys[MAX_LISTED:] = [f"and {len(more):,} more (see --json)"]
            total = f"{len(self.denied):,}"
            print(
                f"Not registered, because a file is denied: {total}.",
                *keys,
                sep="\n  ",
                file=output,
            )

    def to_json(self) -> dict[str, Any]:
        """Return it for programs."""

        def to_list(keys: list[Key]) -> list[dict[str, Any]]:
            return [{"model_id": model_id, "step": step} for model_id, step in sorted(keys)]

        return {
            "registered_count": len(self.registered),
            "registered_meanwhile": to_list(self.meanwhile),
            "deleted_meanwhile": to_list(self.gone),
            "changed_meanwhile": to_list(self.changed),
            "denied": sorted(self.denied),
            "unconfirmed_count": self.unconfirmed,
            "warnings": [
                {"message": message, "count": len(keys), "example": keys[0]}
                for message, keys in self.warnings.items()
            ],
        }


def quote(text: str) -> str:
    """Quote text for a shell. bash and zsh read the escapes of control characters."""
    if text.isprintable():
        return shlex.quote(text)
    parts = (
        each if each.isprintable() and each not in "\\'" else f"\\U{ord(each):08x}" for each in text
    )
    return f"$'{''.join(parts)}'"
