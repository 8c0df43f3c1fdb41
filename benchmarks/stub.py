"""DynamoDB in memory, over HTTP: one token and one model, with latency and a write limit."""

import hashlib
import json
import re
import time
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from math import ceil
from threading import Lock
from typing import Any

from function import ENTITY, MODEL, TOKEN

TOKENS_TABLE = "tokens"
CHECKPOINTS_TABLE = "checkpoints"

RECORD_BYTES = 200  # of one checkpoint
PAGE_BYTES = 1024 * 1024  # the most that one Query reads
READ_UNIT_BYTES = 4096  # the most that one strongly consistent read unit reads

type Json = dict[str, Any]


class _RefusedError(Exception):
    """An error of DynamoDB: its code and, for a cancelled transaction, a code for each item."""

    def __init__(self, code: str, reasons: Iterable[str] = ()) -> None:
        super().__init__(code)
        self.body = {
            "__type": f"com.amazonaws.dynamodb.v20120810#{code}",
            "message": code,
            "CancellationReasons": [{"Code": reason} for reason in reasons],
        }


class Stub:
    """The tables, and what was asked of them since the last `reset`."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._operations = {
            "GetItem": self._get_item,
            "BatchGetItem": self._batch_get_item,
            "Query": self._query,
            "DeleteItem": self._delete_item,
            "TransactWriteItems": self._transact_write_items,
        }
        self.reset()

    def reset(
        self,
        steps: Iterable[int] = (),
        *,
        foreign: Iterable[int] = (),
        latency: float = 0.0,
        write_limit: int | None = None,
    ) -> None:
        """Replace the checkpoints and set the counters to zero.

        Args:
            steps: where the caller has checkpoints.
            foreign: where another entity has some.
            latency: the seconds that each call takes.
            write_limit: the write units a second, and also the units of the first burst.

        """
        self.entities = dict.fromkeys(steps, ENTITY) | dict.fromkeys(foreign, "another-team")
        self._order = sorted(self.entities)  # keeps the deleted steps too
        self._latency = latency
        self._write_limit = write_limit
        self._free_units = float(write_limit or 0)
        self._free_units_time = time.perf_counter()
        self.calls = self.read_units = self.write_units = 0

    def respond(
        self, _path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Carry out one request in DynamoDB's protocol, as `server.Respond`."""
        operation = self._operations[headers["X-Amz-Target"].partition(".")[2]]
        with self._lock:
            self.calls += 1
            try:
                status, result = 200, operation(json.loads(body))
            except _RefusedError as error:
                status, result = 400, error.body
        time.sleep(self._latency)
        response = json.dumps(result).encode()
        crc = str(zlib.crc32(response))
        return status, {"Content-Type": "application/x-amz-json-1.0", "x-amz-crc32": crc}, response

    def _get_item(self, request: Json) -> Json:
        self.read_units += 1
        token_hash = hashlib.sha256(TOKEN.encode()).hexdigest()
        if request["TableName"] != TOKENS_TABLE or request["Key"]["token_hash"]["S"] != token_hash:
            return {}
        token = {
            "token_hash": {"S": token_hash},
            "entity": {"S": ENTITY},
            "scopes": {"SS": ["checkpoints:delete"]},
            "name": {"S": "benchmark"},
            "created_at": {"N": "0"},
        }
        return {"Item": token}

    def _batch_get_item(self, request: Json) -> Json:
        ((table, asked),) = request["RequestItems"].items()
        self.read_units += len(asked["Keys"])
        steps = [int(key["step"]["N"]) for key in asked["Keys"] if self._entity(key)]
        items = [self._item(step, asked) for step in steps]
        return {"Responses": {table: items}, "UnprocessedKeys": {}}

    def _query(self, request: Json) -> Json:
        values = request["ExpressionAttributeValues"]
        between = re.search(r"BETWEEN (:\w+) AND (:\w+)", request["KeyConditionExpression"])
        if not between:
            raise _RefusedError("ValidationException")
        first, last = (int(values[name]["N"]) for name in between.groups())
        if "ExclusiveStartKey" in request:
            first = int(request["ExclusiveStartKey"]["step"]["N"]) + 1
        begin, end = bisect_left(self._order, first), bisect_right(self._order, last)
        page = min(end, begin + min(request.get("Limit", end), PAGE_BYTES // RECORD_BYTES))
        read = self._order[begin:page]
        self.read_units += ceil(max(1, len(read) * RECORD_BYTES) / READ_UNIT_BYTES)
        owners = {values[name]["S"] for name in re.findall(r":\w+", request["FilterExpression"])}
        items = [self._item(step, request) for step in read if self.entities.get(step) in owners]
        more = {"LastEvaluatedKey": _key(read[-1])} if page < end else {}
        return {"Items": items, "Count": len(items), "ScannedCount": len(read), **more}

    def _delete_item(self, delete: Json) -> Json:
        if not self._take_units(1):
            raise _RefusedError("ProvisionedThroughputExceededException")
        entity = self._entity(delete["Key"])
        if not self._permits(delete):
            raise _RefusedError("ConditionalCheckFailedException")
        self.entities.pop(int(delete["Key"]["step"]["N"]), None)
        return {"Attributes": delete["Key"] | {"entity": {"S": entity}}} if entity else {}

    def _transact_write_items(self, request: Json) -> Json:
        deletes = [item["Delete"] for item in request["TransactItems"]]
        if not self._take_units(2 * len(deletes)):
            reasons = ["ThrottlingError"] * len(deletes)
        else:
            reasons = ["None" if self._permits(d) else "ConditionalCheckFailed" for d in deletes]
        if set(reasons) != {"None"}:
            raise _RefusedError("TransactionCanceledException", reasons)
        for delete in deletes:
            del self.entities[int(delete["Key"]["step"]["N"])]
        return {}

    def _take_units(self, units: int) -> bool:
        """Take write units from a token bucket that holds one second's worth."""
        if self._write_limit:
            now = time.perf_counter()
            gained = (now - self._free_units_time) * self._write_limit
            self._free_units = min(self._write_limit, self._free_units + gained)
            self._free_units_time = now
            if units > self._free_units:
                return False
            self._free_units -= units
        self.write_units += units
        return True

    def _permits(self, delete: Json) -> bool:
        entity = self._entity(delete["Key"])
        if entity is None:
            return "attribute_not_exists" in delete["ConditionExpression"]
        return {"S": entity} in delete["ExpressionAttributeValues"].values()

    def _entity(self, key: Json) -> str | None:
        return self.entities.get(int(key["step"]["N"])) if key["model_id"]["S"] == MODEL else None

    def _item(self, step: int, request: Json) -> Json:
        item = _key(step) | {"entity": {"S": self.entities[step]}}
        names = request.get("ExpressionAttributeNames", {})
        shown = re.findall(r"[#\w]+", request.get("ProjectionExpression", "model_id step entity"))
        return {name: item[name] for name in (names.get(name, name) for name in shown)}


def _key(step: int) -> Json:
    return {"model_id": {"S": MODEL}, "step": {"N": str(step)}}
