"""Read which checkpoints exist, and their metrics."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

from checkpoints.dynamodb import Calls
from checkpoints.records.batches import run_in_batches
from checkpoints.records.numbers import intersect, storable, to_integer

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import QueryOutputTypeDef

# DynamoDB's limits: keys in a batch, and bytes in a partition key.
MAX_BATCH_KEYS = 100
MAX_MODEL_ID_BYTES = 2048

# A query also reads the records between the requested steps. Its response is *sparse* if it covers
# fewer than MAX_BATCH_KEYS steps, or less than one step per 20 records read. (20 records of 200
# bytes cost as much as one key of a batch.) After three of these, read the other steps in batches.
MAX_SPARSE_RESPONSES = 3
RECORDS_PER_KEY = 20

# If a query does not fill a page of the list, because it reads records of other entities, the next
# query reads READ_GROWTH times as many records, so that even a large number takes only a few calls.
# One call reads up to 1 MB: about 20,000 small records.
READ_GROWTH = 4
MAX_READ_RECORDS = 20_000

MAX_EXACT_INTEGER = 2**53  # a 64-bit float holds every integer up to it


class Checkpoint(NamedTuple):
    """A checkpoint as the list shows it."""

    step: int
    metrics: dict[str, float]


class OwnedCheckpoints(NamedTuple):
    """The checkpoints of one model that one entity owns, and the calls of the request."""

    client: "DynamoDBClient"
    table: str
    model_id: str
    entity: str
    calls: Calls

    @property
    def has_possible_model(self) -> bool:
        """Whether the model's id fits into a DynamoDB key."""
        return len(self.model_id.encode()) <= MAX_MODEL_ID_BYTES

    def possible(self, steps: list[int]) -> list[int]:
        """Return the steps at which the table can have a checkpoint, in the same order."""
        return storable(steps) if self.has_possible_model else []

    def existing(self, steps: list[int]) -> list[int]:
        """Return those of the steps at which the entity has a checkpoint now, in any order.

        The given steps must be ascending.

        A query reads all records between two steps, which is cheap if most of them were requested.
        Otherwise, and for a few steps, batches read single keys. So n steps take at most about
        n / 100 calls.

        Raises:
            CallError: DynamoDB failed.

        """
        if len(steps) <= MAX_BATCH_KEYS:
            return self._read(steps) if steps else []
        existing: list[int] = []
        position = 0
        sparse_responses = 0
        while position < len(steps) and sparse_responses < MAX_SPARSE_RESPONSES:
            response = self.calls.make(
                self.client.query,
                TableName=self.table,
                KeyConditionExpression="model_id = :model_id AND #step BETWEEN :first AND :last",
                FilterExpression="entity = :entity",
                ProjectionExpression="#step",
                ExpressionAttributeNames={"#step": "step"},
                ExpressionAttributeValues={
                    ":model_id": {"S": self.model_id},
                    ":first": {"N": str(steps[position])},
                    ":last": {"N": str(steps[-1])},
                    ":entity": {"S": self.entity},
                },
                ConsistentRead=True,
            )
            existing += intersect(steps, (item["step"]["N"] for item in response["Items"]))
            if "LastEvaluatedKey" not in response:
                return existing
            before = position
            position = bisect_right(steps, Decimal(response["LastEvaluatedKey"]["step"]["N"]))
            enough = max(MAX_BATCH_KEYS, response["ScannedCount"] // RECORDS_PER_KEY)
            sparse_responses += position - before < enough
        run_in_batches(
            lambda batch: existing.extend(self._read(batch)), steps[position:], MAX_BATCH_KEYS
        )
        return existing

    def _read(self, steps: Sequence[int]) -> list[int]:
        """Return those of at most `MAX_BATCH_KEYS` ascending steps that exist."""
        keys: Any = [self.key(step) for step in steps]
        existing: list[int] = []
        for rounds in count():
            response: Any = self.calls.make(
                self.client.batch_get_item,
                retries=rounds,
                RequestItems={
                    self.table: {
                        "Keys": keys,
                        "ProjectionExpression": "#step, entity",
                        "ExpressionAttributeNames": {"#step": "step"},
                        "ConsistentRead": True,
                    }
                },
            )
            items = response["Responses"].get(self.table, [])
            owned = (item for item in items if item.get("entity") == {"S": self.entity})
            existing += intersect(steps, (item["step"]["N"] for item in owned))
            # DynamoDB leaves keys unprocessed when it is throttled or the records are large.
            keys = response["UnprocessedKeys"].get(self.table, {}).get("Keys")
            if not keys:
                break
        return existing

    def after(self, step: int | None, records: int, *, descending: bool) -> Iterator[Checkpoint]:
        """Yield the checkpoints after a step, or all of them, sorted by step.

        The step need not exist. The first query reads `records` records: as many as the caller
        needs if all of them are the entity's.

        Raises:
            CallError: DynamoDB failed.

        """
        if not self.has_possible_model:
            return
        last_read = None if step is None else str(step)
        while True:
            response = self._query(last_read, records, descending=descending)
            for item in response["Items"]:
                number = to_integer(item["step"]["N"])
                if number is not None:
                    yield Checkpoint(number, _numbers(item.get("metrics", {}).get("M", {})))
            if "LastEvaluatedKey" not in response:
                return
            last_read = response["LastEvaluatedKey"]["step"]["N"]
            records = min(records * READ_GROWTH, MAX_READ_RECORDS)

    def _query(self, after: str | None, records: int, *, descending: bool) -> "QueryOutputTypeDef":
        """Read the records after a step, or the first ones, and return those of the entity."""
        condition = "model_id = :model_id"
        values = {":model_id": {"S": self.model_id}, ":entity": {"S": self.entity}}
        if after is not None:
            condition += f" AND #step {'<' if descending else '>'} :after"
            values[":after"] = {"N": after}
        return self.calls.make(
            self.client.query,
            TableName=self.table,
            KeyConditionExpression=condition,
            FilterExpression="entity = :entity",
            ProjectionExpression="#step, #metrics",
            ExpressionAttributeNames={"#step": "step", "#metrics": "metrics"},
            ExpressionAttributeValues=values,
            ScanIndexForward=not descending,
            Limit=records,
            ConsistentRead=True,
        )

    def key(self, step: int) -> dict[str, Any]:
        """Return the key of the record at a step."""
        return {"model_id": {"S": self.model_id}, "step": {"N": str(step)}}


def _numbers(attributes: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a map with the precision of JSON clients, which have 64-bit floats."""
    floats = {name: float(value["N"]) for name, value in attributes.items() if "N" in value}
    return {
        name: int(number) if number.is_integer() and abs(number) < MAX_EXACT_INTEGER else number
        for name, number in floats.items()
    }
