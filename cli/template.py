"""Read the template of the stack."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

TEMPLATE = Path(__file__).parents[1] / "template.yaml"


class _Loader(yaml.SafeLoader):
    """Understands CloudFormation's short form of functions."""


def _function(
    loader: yaml.SafeLoader, name: str, node: yaml.ScalarNode | yaml.SequenceNode
) -> dict[str, Any]:
    key = name if name in ("Ref", "Condition") else f"Fn::{name}"
    if isinstance(node, yaml.ScalarNode):
        return {key: loader.construct_scalar(node)}
    return {key: loader.construct_sequence(node, deep=True)}


_Loader.add_multi_constructor("!", _function)


@cache
def read_template(path: Path = TEMPLATE) -> dict[str, Any]:
    """Return a template, with `!Ref X` as `{"Ref": "X"}` and so on. Do not change the result."""
    template: dict[str, Any] = yaml.load(path.read_text(), Loader=_Loader)  # noqa: S506 it is safe
    return template
