"""No command ignores a value that it was given."""

import re
from typing import Any

import pytest

from cli import restore, smoke, tokens
from scripts import local, openapi, preflight, serve

# For each command, what it needs besides the option that is given twice.
OPTIONS = [
    (tokens, "issue --entity a --name b --scope checkpoints:read", "--entity a"),
    (tokens, "issue --entity a --name b --scope checkpoints:read", "--expires 1d"),
    (tokens, "list", "--stack a"),
    (restore, "--stack a --model b --steps 1", "--from a"),
    (restore, "--stack a --from b", "--model a"),
    (restore, "--stack a --from b --model c", "--steps 1"),
    (restore, "--stack a --from b --model c --steps 1", "--dry-run"),
    (smoke, "--stack a", "--url http://a"),
    (preflight, "", "--region us-east-1"),
    (local, "", "--port 8000"),
    (serve, "", "--port 0"),
    (serve, "", "--verbose"),
    (openapi, "", "--check"),
]


@pytest.mark.parametrize(("command", "others", "option"), OPTIONS)
def test_refuses_an_option_that_is_given_twice(
    command: Any, others: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main([*others.split(), *option.split() * 2])

    name = option.split(maxsplit=1)[0]
    told = capsys.readouterr().err.splitlines()[-1]
    assert (2, True) == (
        ended.value.code,
        bool(re.search(rf"error: argument {name}(/\S+)?: it is given twice$", told)),
    )
