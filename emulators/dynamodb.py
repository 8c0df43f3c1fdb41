"""DynamoDB in this process, with the two tables as `template.yaml` declares them.

For the demo and the tests. It is moto, set up so that nothing can reach a real account.
"""

import copy
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import batched
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from unittest import mock

import boto3
import yaml
from aws_lambda_powertools.utilities.typing import LambdaContext
from moto import mock_aws
from moto.dynamodb.models import DynamoDBBackend
from moto.dynamodb.models.table import Table as MotoTable

from checkpoints.auth import DELETE_SCOPE
from emulators import records
from emulators.records import Attribute

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

TEMPLATE = Path(__file__).parents[1] / "template.yaml"
STACK = "checkpoints"
REGION = "us-east-1"

type Table = dict[str, set[int]]


@contextmanager
def embedded_dynamodb() -> Iterator[None]:
    """Run the block with both tables in memory and `os.environ` as the function would find it."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    environment |= {
        "AWS_DEFAULT_REGION": REGION,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    with (
        mock.patch.dict(os.environ, environment, clear=True),
        mock_aws(),
        mock.patch.object(
            DynamoDBBackend,
            "transact_write_items",
            _one_at_a_time(DynamoDBBackend.transact_write_items),
        ),
        mock.patch.object(MotoTable, "__deepcopy__", _snapshot, create=True),
    ):
        outputs = _create_stack()
        os.environ["CHECKPOINTS_TABLE"] = outputs["CheckpointsTableName"]
        os.environ["POWERTOOLS_SERVICE_NAME"] = STACK
        os.environ["TOKENS_TABLE"] = outputs["TokensTableName"]
        _client.cache_clear()
        yield


def lambda_context(milliseconds: int = 29_000) -> LambdaContext:
    """Return the context of an invocation that has so much time from now on."""
    end = time.monotonic() + milliseconds / 1000
    context = SimpleNamespace(
        function_name="ApiFunction",
        function_version="$LATEST",
        memory_limit_in_mb=512,
        invoked_function_arn=f"arn:aws:lambda:{REGION}:123456789012:function:ApiFunction",
        aws_request_id=str(uuid.uuid4()),
        get_remaining_time_in_millis=lambda: max(0, int((end - time.monotonic()) * 1000)),
    )
    return cast("LambdaContext", context)


def put_token(
    token: str,
    *,
    entity: str,
    scopes: Collection[str] = (DELETE_SCOPE,),
    name: str | None = None,
    **attributes: Attribute,
) -> None:
    """Save a token in the embedded table; see `records.put_token`."""
    records.put_token(
        _client(),
        os.environ["TOKENS_TABLE"],
        token,
        entity=entity,
        scopes=scopes,
        name=name,
        **attributes,
    )


def put_checkpoints(
    model_id: str, steps: Iterable[int], *, entity: str, **attributes: Attribute
) -> None:
    """Save checkpoints in the embedded table; see `records.put_checkpoints`."""
    table = os.environ["CHECKPOINTS_TABLE"]
    records.put_checkpoints(_client(), table, model_id, steps, entity=entity, **attributes)


def stored_checkpoints() -> Table:
    """Return the steps of each model that has any."""
    table: Table = {}
    for record in _scan(os.environ["CHECKPOINTS_TABLE"]):
        table.setdefault(record["model_id"]["S"], set()).add(int(record["step"]["N"]))
    return dict(sorted(table.items()))


def clear_tables() -> None:
    """Remove every token and every checkpoint."""
    for table, keys in (
        (os.environ["CHECKPOINTS_TABLE"], ("model_id", "step")),
        (os.environ["TOKENS_TABLE"], ("token_hash",)),
    ):
        for batch in batched(_scan(table), 25, strict=False):
            found: list[dict[str, Any]] = [{key: item[key] for key in keys} for item in batch]
            _client().batch_write_item(
                RequestItems={table: [{"DeleteRequest": {"Key": key}} for key in found]}
            )


def _scan(table: str) -> Iterator[dict[str, Any]]:
    for page in _client().get_paginator("scan").paginate(TableName=table):
        yield from page["Items"]


@cache
def _client() -> "DynamoDBClient":
    """Return the one client of the embedded DynamoDB; made within its environment."""
    return boto3.client("dynamodb")


def read_template(path: Path = TEMPLATE) -> dict[str, Any]:
    """Return a template as plain data, `!Ref X` as `{"Ref": "X"}` and so on."""
    template: dict[str, Any] = yaml.load(path.read_text(), Loader=_Loader)  # noqa: S506 it is safe
    return template


def _create_stack() -> dict[str, str]:
    template = read_template()
    tables = {
        name: resource
        for name, resource in template["Resources"].items()
        if resource["Type"] == "AWS::DynamoDB::Table"
    }
    outputs = {
        name: output
        for name, output in template["Outputs"].items()
        if output["Value"].get("Ref") in tables
    }
    cloudformation = boto3.client("cloudformation")
    cloudformation.create_stack(
        StackName=STACK, TemplateBody=json.dumps({"Resources": tables, "Outputs": outputs})
    )
    (stack,) = cloudformation.describe_stacks(StackName=STACK)["Stacks"]
    return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}


class _Loader(yaml.SafeLoader):
    """Understands CloudFormation's short form of functions."""


def _function(loader: yaml.SafeLoader, name: str, node: yaml.Node) -> dict[str, Any]:
    key = name if name in ("Ref", "Condition") else f"Fn::{name}"
    match node:
        case yaml.ScalarNode():
            return {key: loader.construct_scalar(node)}
        case yaml.SequenceNode():
            return {key: loader.construct_sequence(node, deep=True)}
        case yaml.MappingNode():
            return {key: loader.construct_mapping(node, deep=True)}
    raise ValueError(f"Cannot read !{name}")


_Loader.add_multi_constructor("!", _function)


# moto copies the whole table for each action of a transaction, and puts the copies back when the
# transaction is cancelled. That is slow for a big table and wrong for two transactions at a time.
def _one_at_a_time[**P, R](function: Callable[P, R]) -> Callable[P, R]:
    lock = threading.Lock()

    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        with lock:
            return function(*args, **kwargs)

    return wrapper


def _snapshot(table: MotoTable, _memo: object) -> MotoTable:
    """Copy what a transaction of deletes can change: which items there are."""
    clone = copy.copy(table)
    clone.items = copy.copy(table.items)
    for key, items in table.items.items():
        clone.items[key] = dict(items) if isinstance(items, dict) else items
    return clone
