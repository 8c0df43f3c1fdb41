"""DynamoDB in this process, with the two tables as `template.yaml` declares them.

For the demo and the tests. It uses moto, and no call can reach a real account.
"""

import copy
import json
import os
import threading
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, cast
from unittest import mock

import boto3
from moto import mock_aws
from moto.core.model import MapShape
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.core.serialize import BaseJSONSerializer, JSONSerializer
from moto.dynamodb import models as moto_models
from moto.dynamodb.comparisons import get_filter_expression
from moto.dynamodb.models import DynamoDBBackend, dynamodb_backends
from moto.dynamodb.models.dynamo_type import Item
from moto.dynamodb.models.table import Table as MotoTable

from checkpoints.api.auth import DELETE_SCOPE
from cli.template import read_template
from emulators import STACK, records
from emulators.records import Attribute

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

REGION = "us-east-1"

type Table = dict[str, set[int]]


@contextmanager
def embedded_dynamodb() -> Iterator[None]:
    """Run the block with both tables in memory, and the environment variables of the function.

    Call `isolate` first.
    """
    with (
        mock.patch.dict(os.environ, AWS_DEFAULT_REGION=REGION),
        mock_aws(),
        mock.patch.object(
            DynamoDBBackend,
            "transact_write_items",
            _one_at_a_time(DynamoDBBackend.transact_write_items),
        ),
        mock.patch.object(MotoTable, "__deepcopy__", _snapshot, create=True),
        mock.patch.object(JSONSerializer, "_serialize_type_map", _serialize_map),
        mock.patch.object(moto_models, "get_filter_expression", _parse_condition),
        mock.patch.object(Item, "__deepcopy__", lambda item, _memo: item),
    ):
        _client.cache_clear()
        create_tables(_client())
        os.environ["CHECKPOINTS_TABLE"] = "CheckpointsTable"
        os.environ["POWERTOOLS_SERVICE_NAME"] = STACK
        os.environ["TOKENS_TABLE"] = "TokensTable"
        yield


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
        _tables(),
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
    records.put_checkpoints(_tables(), table, model_id, steps, entity=entity, **attributes)


def put_demo() -> None:
    """Save the demo's records in the embedded tables; see `records.put_demo`."""
    records.put_demo(_tables(), os.environ["CHECKPOINTS_TABLE"], os.environ["TOKENS_TABLE"])


def stored_checkpoints() -> Table:
    """Return the steps of each model that has any."""
    table: Table = {}
    for items in moto_tables()[os.environ["CHECKPOINTS_TABLE"]].items.values():
        for item in items.values():
            model_id = item.attrs["model_id"].value
            table.setdefault(model_id, set()).add(int(item.attrs["step"].value))
    return dict(sorted(table.items()))


def checkpoint_owners() -> dict[str, str]:
    """Describe how many checkpoints of each model each entity has."""
    owners: dict[str, Counter[str]] = {}
    for items in moto_tables()[os.environ["CHECKPOINTS_TABLE"]].items.values():
        for item in items.values():
            owner = item.attrs["entity"].value
            owners.setdefault(item.attrs["model_id"].value, Counter())[owner] += 1
    return {
        model_id: ", ".join(f"{count} of {entity}" for entity, count in counts.most_common())
        for model_id, counts in sorted(owners.items())
    }


def stored_tokens() -> dict[str, str]:
    """Return the name, entity and scopes of each token in words, by its hash."""
    records = _client().scan(TableName=os.environ["TOKENS_TABLE"])["Items"]
    return {
        record["token_hash"]["S"]: f"{record['name']['S']} of {record['entity']['S']}, "
        f"for {', '.join(sorted(record['scopes']['SS']))}"
        for record in records
    }


def clear_tables() -> None:
    """Remove every token and every checkpoint."""
    for table in moto_tables().values():
        table.items.clear()


def moto_tables() -> dict[str, MotoTable]:
    """Return moto's tables; scanning them through the API would take seconds in total."""
    tables: dict[str, MotoTable] = dynamodb_backends[DEFAULT_ACCOUNT_ID][REGION].tables
    return tables


class _Tables:
    """The two methods of a client that `records` calls. They write directly to moto's tables.

    Calls through boto3 are slow. In most tests, they would take more time than everything else.
    """

    def put_item(self, *, TableName: str, Item: dict[str, Any]) -> None:  # noqa: N803 as in boto3
        """Save an item."""
        moto_tables()[TableName].put_item(_as_transferred(Item), overwrite=True)

    def batch_write_item(self, *, RequestItems: dict[str, Any]) -> dict[str, Any]:  # noqa: N803
        """Save several items."""
        for table, requests in RequestItems.items():
            for request in requests:
                self.put_item(TableName=table, Item=request["PutRequest"]["Item"])
        return {"UnprocessedItems": {}}


def _tables() -> "DynamoDBClient":
    return cast("DynamoDBClient", _Tables())


@cache
def _client() -> "DynamoDBClient":
    """Return the client of the embedded DynamoDB."""
    return boto3.client("dynamodb")


def create_tables(client: "DynamoDBClient") -> None:
    """Create the template's tables. Their names are their logical ids, as in `sam local`."""
    for name, resource in read_template()["Resources"].items():
        if resource["Type"] == "AWS::DynamoDB::Table":
            properties = resource["Properties"]
            kept = ("AttributeDefinitions", "KeySchema", "BillingMode")
            client.create_table(TableName=name, **{key: properties[key] for key in kept})


# For each action of a transaction, moto copies the whole table. If the transaction is cancelled,
# moto replaces the table with its copy. This is slow for large tables, and wrong if two
# transactions run at the same time. So run one transaction at a time, and copy each table once.
_snapshots: dict[str, MotoTable] = {}  # the copies for the current transaction, by table name


def _one_at_a_time[**P, R](function: Callable[P, R]) -> Callable[P, R]:
    lock = threading.Lock()

    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        with lock:
            _snapshots.clear()
            return function(*args, **kwargs)

    return wrapper


def _snapshot(table: MotoTable, _memo: object) -> MotoTable:
    """Copy what a transaction of deletes can change: the collection of items, and the stream."""
    if table.name not in _snapshots:
        _snapshots[table.name] = clone = copy.copy(table)
        clone.items = copy.copy(table.items)
        for key, items in table.items.items():
            clone.items[key] = dict(items) if isinstance(items, dict) else items
        if table.stream_shard:
            clone.stream_shard = copy.copy(table.stream_shard)
            clone.stream_shard.items = list(table.stream_shard.items)
    return _snapshots[table.name]


# The next functions make moto faster. By default, moto copies each record that a query finds, tries
# several names of each of the ten types to serialize an attribute, and parses the condition of each
# action of a transaction twice. Here this is not needed: nothing changes a record in place, and
# most conditions are the same.
def _serialize_map(
    serializer: JSONSerializer,
    serialized: dict[str, Any],
    value: dict[str, Any],
    shape: MapShape,
    key: str,
) -> None:
    """Serialize a record without changes, and any other map as moto does."""
    if shape.value.name == "AttributeValue":
        serialized[key] = _as_transferred(value)
    else:
        BaseJSONSerializer._serialize_type_map(serializer, serialized, value, shape, key)  # noqa: SLF001


_ENCODER = json.JSONEncoder(default=lambda value: b64encode(value).decode())


def _as_transferred(record: dict[str, Any]) -> dict[str, Any]:
    """Copy a record, with bytes in base64."""
    return cast("dict[str, Any]", json.loads(_ENCODER.encode(record)))


def _parse_condition(*expression: Any) -> Any:  # noqa: ANN401 as in moto
    return _parse_json_condition(json.dumps(expression))


@lru_cache
def _parse_json_condition(expression: str) -> Any:  # noqa: ANN401
    return get_filter_expression(*json.loads(expression))
