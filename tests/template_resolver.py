"""The template as CloudFormation deploys it: SAM-transformed, with every value resolved."""

import copy
import re
from functools import cache
from typing import Any

import boto3
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator

from cli.template import read_template
from emulators import STACK
from emulators.dynamodb import REGION

type Json = dict[str, Any]

_NOTHING = object()
PSEUDO_PARAMETERS = {
    "AWS::AccountId": "123456789012",
    "AWS::NoValue": _NOTHING,
    "AWS::Partition": "aws",
    "AWS::Region": REGION,
    "AWS::StackName": STACK,
    "AWS::URLSuffix": "amazonaws.com",
}


def deployed(**parameters: str) -> Json:
    """Return the stack's resources with plain values, where a resource is its logical id.

    Parameters have their defaults unless given, and the code its place in a bucket. Do not change
    the result.
    """
    resources: Json = resolved(**parameters)["Resources"]
    return resources


def outputs_of(**parameters: str) -> dict[str, str]:
    """Return the values of the stack's outputs, where a resource is its logical id."""
    outputs = resolved(**parameters)["Outputs"]
    return {name: output["Value"] for name, output in outputs.items()}


@cache
def resolved(**parameters: str) -> Json:
    """Return the resources and the outputs of the stack."""
    template = copy.deepcopy(read_template())
    template["Globals"]["Function"]["CodeUri"] = "s3://packages/package"
    defaults = {name: kind["Default"] for name, kind in template["Parameters"].items()}
    assert set(parameters) <= set(defaults)
    values = {name: str(value) for name, value in (defaults | parameters).items()}

    translator = Translator({}, Parser(), boto_session=boto3.Session(region_name=REGION))
    transformed: Json = translator.translate(template, dict(values))

    stack = _Stack(PSEUDO_PARAMETERS | values, transformed["Conditions"])
    return {
        section: {
            name: stack.resolve(part)
            for name, part in transformed[section].items()
            if "Condition" not in part or stack.holds(part["Condition"])
        }
        for section in ("Resources", "Outputs")
    }


def refusals(**parameters: str) -> list[str]:
    """Return why CloudFormation refuses to deploy with these parameters."""
    template = read_template()
    values = {name: kind["Default"] for name, kind in template["Parameters"].items()} | parameters
    stack = _Stack(values, {})
    return [
        assertion["AssertDescription"]
        for rule in template["Rules"].values()
        if stack.resolve(rule["RuleCondition"])
        for assertion in rule["Assertions"]
        if not stack.resolve(assertion["Assert"])
    ]


def of_type(resources: Json, kind: str) -> Json:
    """Return the properties of each resource of a type."""
    return {
        name: resource.get("Properties", {})
        for name, resource in resources.items()
        if kind == resource["Type"]
    }


def only(resources: Json, kind: str) -> Json:
    """Return the properties of the one resource of a type."""
    (properties,) = of_type(resources, kind).values()
    assert isinstance(properties, dict)
    return properties


def allowed(resources: Json, name: str) -> dict[str, set[str]]:
    """Return all actions that the role of a function allows, by resource."""
    role = resources[resources[name]["Properties"]["Role"].removesuffix(".Arn")]["Properties"]
    assert "ManagedPolicyArns" not in role
    (policy,) = role["Policies"]
    actions: dict[str, set[str]] = {}
    for statement in policy["PolicyDocument"]["Statement"]:
        actions.setdefault(statement["Resource"], set()).update(statement["Action"])
    return actions


class _Stack:
    def __init__(self, values: dict[str, object], conditions: Json) -> None:
        self._values = values
        self._conditions = conditions

    def holds(self, condition: str) -> bool:
        holds: bool = self.resolve(self._conditions[condition])
        return holds

    def resolve(self, value: Any) -> Any:  # noqa: C901, PLR0911 there are so many functions
        match value:
            case {"Ref": name}:
                return self._values.get(name, name)
            case {"Fn::If": [condition, then, otherwise]}:
                return self.resolve(then if self.holds(condition) else otherwise)
            case {"Fn::Equals": [left, right]}:
                return str(self.resolve(left)) == str(self.resolve(right))
            case {"Fn::Contains": [values, wanted]}:
                return self.resolve(wanted) in values
            case {"Fn::Not": [condition]}:
                return not self.resolve(condition)
            case {"Fn::Or": conditions}:
                return any(map(self.resolve, conditions))
            case {"Fn::And": conditions}:
                return all(map(self.resolve, conditions))
            case {"Condition": name} if len(value) == 1:
                return self.holds(name)
            case {"Fn::GetAtt": name}:
                return name if isinstance(name, str) else ".".join(name)
            case {"Fn::Sub": text}:
                text, names = (text, {}) if isinstance(text, str) else text
                return self._substitute(text, self.resolve(names))
            case dict():
                assert not any(key.startswith("Fn::") for key in value), value
                resolved = {key: self.resolve(element) for key, element in value.items()}
                return {key: v for key, v in resolved.items() if v is not _NOTHING}
            case list():
                return [v for v in map(self.resolve, value) if v is not _NOTHING]
        return value

    def _substitute(self, text: str, names: Json) -> str:
        def replacement(match: re.Match[str]) -> str:
            return str((self._values | names).get(match[1], match[1]))

        return re.sub(r"\$\{([^}]+)\}", replacement, text)
