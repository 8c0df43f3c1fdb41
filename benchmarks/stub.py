"""A stub of DynamoDB in memory: one token and one model, with latency and a write limit."""

import hashlib
import json
import re
import time
import zlib
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable
from email.message import Message
from math import ceil
from threading import Lock
from typing import Any

from server import Response

from events import ENTITY, MODEL, TOKEN

RECORD_BYTES = 200  # size of one checkpoint's record
PAGE_RECORDS = 1024 * 1024 // RECORD_BYTES  # of one Query, which reads at most 1 MB
READ_UNIT_BYTES = 4096

TOKEN_RECORD = {
    "token_hash": {"S": hashlib.sha256(TOKEN.encode()).hexdigest()},
    "entity": {"S": ENTITY},
    "scopes": {"SS": ["checkpoints:delete"]},
    "name": {"S": "benchmark"},
    "created_at": {"N": "0"},
}

type Json = dict[str, Any]


class _DynamoDBError(Exception):
    """The arguments are an error code and, for a cancelled transaction, one code per item."""


class Stub:
    """The tables, and their usage since the last `reset`."""

    def __init__(self) -> None:
        self._lock = Lock()
        self.reset()

    def reset(
        self,
        steps: Iterable[int] = (),
        foreign: Iterable[int] = (),
        latency: float = 0.0,
        write_limit: float = 0.0,
    ) -> None:
        """Replace the checkpoints, and set the `usage` to zero: calls, read units, write units.

        The caller owns the checkpoints at `steps`, another entity those at `foreign`. `latency` is
        in seconds per call. `write_limit` is in units per second, and 0 is no limit. Unused units
        are saved, up to one second's worth.
        """
        self.entities = dict.fromkeys(steps, ENTITY) | dict.fromkeys(foreign, "another-team")
        self._order = sorted(self.entities)  # still contains the deleted steps
        self._latency = latency
        self._write_limit = self._saved_units = write_limit
        self._saved_at = time.perf_counter()
        self.usage = Counter[str]()

    def respond(self, _path: str, headers: Message, body: bytes) -> Response:
        """Handle one request in DynamoDB's protocol."""
        operation = headers["X-Amz-Target"].partition(".")[2]
        method = getattr(self, "_" + re.sub(r"(?<!^)(?=[A-Z])", "_", operation).lower())
        with self._lock:
            self.usage["calls"] += 1
            try:
                status, result = 200, method(json.loads(body))
            except _DynamoDBError as error:
                code, *reasons = error.args
                status, result = 400, {"__type": f"com.amazonaws.dynamodb.v20120810#{code}"}
                result["CancellationReasons"] = [{"Code": reason} for reason in reasons]
        time.sleep(self._latency)
        response = json.dumps(result).encode()
        return status, {"x-amz-crc32": str(zlib.crc32(response))}, response

    def _get_item(self, request: Json) -> Json:
        self.usage["read_units"] += 1
        is_known = request["Key"]["token_hash"] == TOKEN_RECORD["token_hash"]
        return {"Item": TOKEN_RECORD} if is_known else {}

    def _batch_get_item(self, request: Json) -> Json:
        ((table, requested),) = request["RequestItems"].items()
        self.usage["read_units"] += len(requested["Keys"])
        entities = [(key["step"], self._entity(key)) for key in requested["Keys"]]
        items = [{"step": step, "entity": {"S": entity}} for step, entity in entities if entity]
        return {"Responses": {table: items}, "UnprocessedKeys": {}}

    def _query(self, request: Json) -> Json:
        values = request["ExpressionAttributeValues"]
        names = re.findall(r"BETWEEN (:\w+) AND (:\w+)", request["KeyConditionExpression"])[0]
        first, last = (int(values[name]["N"]) for name in names)
        if "ExclusiveStartKey" in request:
            first = int(request["ExclusiveStartKey"]["step"]["N"]) + 1
        begin, end = bisect_left(self._order, first), bisect_right(self._order, last)
        size = min(request.get("Limit", end), PAGE_RECORDS)
        steps = self._order[begin : min(end, begin + size)]
        keys = [{"model_id": {"S": MODEL}, "step": {"N": str(step)}} for step in steps]
        self.usage["read_units"] += ceil(max(1, len(keys) * RECORD_BYTES) / READ_UNIT_BYTES)
        owners = [values[name]["S"] for name in re.findall(r":\w+", request["FilterExpression"])]
        items = [{"step": key["step"]} for key in keys if self._entity(key) in owners]
        more = {"LastEvaluatedKey": keys[-1]} if begin + size < end else {}
        return {"Items": items, "Count": len(items), "ScannedCount": len(keys), **more}

    def _delete_item(self, delete: Json) -> Json:
        if not self._take_units(1):
            raise _DynamoDBError("ProvisionedThroughputExceededException")
        if not self._permits(delete):
            raise _DynamoDBError("ConditionalCheckFailedException")
        entity = self.entities.pop(int(delete["Key"]["step"]["N"]), None)
        return {"Attributes": {**delete["Key"], "entity": {"S": entity}}} if entity else {}

    def _transact_write_items(self, request: Json) -> Json:
        deletes = [item["Delete"] for item in request["TransactItems"]]
        reasons = ["ThrottlingError"] * len(deletes)
        if self._take_units(2 * len(deletes)):
            reasons = ["None" if self._permits(d) else "ConditionalCheckFailed" for d in deletes]
        if set(reasons) != {"None"}:
            raise _DynamoDBError("TransactionCanceledException", *reasons)
        for delete in deletes:
            del self.entities[int(delete["Key"]["step"]["N"])]
        return {}

    def _take_units(self, units: int) -> bool:
        if self._write_limit:
            now = time.perf_counter()
            saved = self._saved_units + (now - self._saved_at) * self._write_limit
            self._saved_units, self._saved_at = min(self._write_limit, saved), now
            if units > self._saved_units:
                return False
            self._saved_units -= units
        self.usage["write_units"] += units
        return True

    def _permits(self, delete: Json) -> bool:
        entity = self._entity(delete["Key"])
        if entity is None:
            return "attribute_not_exists" in delete["ConditionExpression"]
        return {"S": entity} in delete["ExpressionAttributeValues"].values()

    def _entity(self, key: Json) -> str | None:
        return self.entities.get(int(key["step"]["N"])) if key["model_id"]["S"] == MODEL else None
