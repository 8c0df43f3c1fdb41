"""What the function is told by its environment."""

import os
from typing import NamedTuple, Self


class MissingSettingError(Exception):
    """An environment variable that the function cannot work without is unset or empty."""


class Settings(NamedTuple):
    """The names of the two tables, as `template.yaml` passes them in."""

    checkpoints_table: str
    tokens_table: str

    @classmethod
    def from_environment(cls) -> Self:
        """Read `CHECKPOINTS_TABLE` and `TOKENS_TABLE`.

        Raises:
            MissingSettingError: one of them is unset or empty.

        """
        return cls(
            checkpoints_table=_required("CHECKPOINTS_TABLE"),
            tokens_table=_required("TOKENS_TABLE"),
        )


def _required(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise MissingSettingError(f"The environment variable {name} is not set")
    return value
