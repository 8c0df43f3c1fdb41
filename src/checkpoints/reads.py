"""Reading which checkpoints exist."""

from bisect import bisect_right
from collections.abc import Sequence
from decimal import Decimal
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

from checkpoints.dynamodb import Calls
from checkpoints.steps import among, side_by_side, storable

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

# DynamoDB's limits: keys in a batch, bytes in a hash key.
MAX_BATCH_KEYS = 100
MAX_MODEL_ID_BYTES = 2048

# A page of a query is sparse if it passes fewer of the steps than a batch has keys, or fewer than
# one for every 20 records that it reads: DynamoDB charges about as much for those as for one key.
# After three sparse pages, batches read the rest.
MAX_SPARSE_PAGES = 3
RECORDS_FOR_A_KEY = 20


class OwnedCheckpoints(NamedTuple):
    """The checkpoints of one model that one entity owns, and the calls that a request makes."""

    client: "DynamoDBClient"
    table: str
    model_id: str
    entity: str
    calls: Calls

    def possible(self, steps: list[int]) -> list[int]:
        """Return the steps at which the table can have a checkpoint, in their order."""
        if len(self.model_id.encode()) > MAX_MODEL_ID_BYTES:
            return []
        return storable(steps)

    def existing(self, steps: list[int]) -> list[int]:
        """Return those of the possible steps that exist now. The steps must be ascending.

        A query reads everything between two steps, which is cheap where much of it was asked for.
        Elsewhere, and if the steps are few, batches read the keys one by one. So n steps take about
        n / 100 calls at most.

        Raises:
            CallError: DynamoDB failed.

        """
        if len(steps) <= MAX_BATCH_KEYS:
            return self._read(steps) if steps else []
        existing: list[int] = []
        passed = 0
        sparse_pages = 0
        while passed < len(steps) and sparse_pages < MAX_SPARSE_PAGES:
            page = self.calls.make(
                self.client.query,
                TableName=self.table,
                KeyConditionExpression="model_id = :model_id AND #step BETWEEN :first AND :last",
                FilterExpression="entity = :entity",
                ProjectionExpression="#step",
                ExpressionAttributeNames={"#step": "step"},
                ExpressionAttributeValues={
                    ":model_id": {"S": self.model_id},
                    ":first": {"N": str(steps[passed])},
                    ":last": {"N": str(steps[-1])},
                    ":entity": {"S": self.entity},
                },
                ConsistentRead=True,
            )
            existing += among(steps, (item["step"]["N"] for item in page["Items"]))
            if "LastEvaluatedKey" not in page:
                return existing
            before = passed
            passed = bisect_right(steps, Decimal(page["LastEvaluatedKey"]["step"]["N"]))
            enough = max(MAX_BATCH_KEYS, page["ScannedCount"] // RECORDS_FOR_A_KEY)
            sparse_pages += passed - before < enough
        side_by_side(
            lambda batch: existing.extend(self._read(batch)), steps[passed:], MAX_BATCH_KEYS
        )
        return existing

    def _read(self, steps: Sequence[int]) -> list[int]:
        """Return those of at most `MAX_BATCH_KEYS` ascending steps that exist."""
        keys: Any = [self.key(step) for step in steps]
        existing: list[int] = []
        for rounds in count():
            answer: Any = self.calls.make(
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
            items = answer["Responses"].get(self.table, [])
            owned = (item for item in items if item.get("entity") == {"S": self.entity})
            existing += among(steps, (item["step"]["N"] for item in owned))
            # DynamoDB leaves keys unprocessed when it is throttled or the records are large.
            keys = answer["UnprocessedKeys"].get(self.table, {}).get("Keys")
            if not keys:
                break
        return existing

    def key(self, step: int) -> dict[str, Any]:
        """Return the key of the record at a step."""
        return {"model_id": {"S": self.model_id}, "step": {"N": str(step)}}
