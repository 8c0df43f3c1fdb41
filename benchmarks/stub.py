"""A stub of DynamoDB in memory: one token and one model, with latency and a write limit."""

import hashlib
import json
import re
import time
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable
from email.message import Message
from threading import Lock
from typing import Any

from server import Response

from events import ENTITY, MODEL, TOKEN

PAGE_RECORDS = 1024 * 1024 // 200  # a Query reads at most 1 MB, and a record has 200 bytes

LATENCY_SECONDS = 0.005  # of each call

TOKEN_RECORD = {
    "token_hash": {"S": hashlib.sha256(TOKEN.encode()).hexdigest()},
    "entity": {"S": ENTITY},
    "scopes": {"SS": ["checkpoints:delete"]},
    "name": {"S": "benchmark"},
    "created_at": {"N": "0"},
}

type Json = dict[str, Any]


class _DynamoDBError(Exception):
    """The error's code, and for a cancelled transaction also the code of each item."""


class Stub:
    """The tables, and their usage since the last `reset`."""

    def __init__(self) -> None:
        self._lock = Lock()
        self.reset()

    def reset(
        self, steps: Iterable[int] = (), foreign: Iterable[int] = (), write_limit: float = 0.0
    ) -> None:
        """Replace the checkpoints, and set the `usage` to zero.

        The caller owns the checkpoints at `steps`, another entity those at `foreign`. `write_limit`
        is in units per second, and 0 is no limit. Unused units are saved, up to one second's worth.
        """
        self.entities = dict.fromkeys(steps, ENTITY) | dict.fromkeys(foreign, "another-team")
        self._order = sorted(self.entities)  # still contains the deleted steps
        self._write_limit = self._saved_units = write_limit
        self._saved_at = time.perf_counter()
        self._open_calls = 0
        self.usage = Counter[str]()  # calls, concurrent_calls (at most), write_units

    def respond(self, _path: str, headers: Message, body: bytes) -> Response:
        """Handle one request in DynamoDB's protocol."""
        operation = headers["X-Amz-Target"].partition(".")[2]
        method = getattr(self, "_" + re.sub(r"(?<!^)(?=[A-Z])", "_", operation).lower())
        with self._lock:
            self._open_calls += 1
            self.usage["calls"] += 1
            self.usage["concurrent_calls"] = max(self.usage["concurrent_calls"], self._open_calls)
            try:
                status, result = 200, method(json.loads(body))
            except _DynamoDBError as error:
                code, *reasons = error.args
                status, result = 400, {"__type": f"com.amazonaws.dynamodb.v20120810#{code}"}
                result["CancellationReasons"] = [{"Code": reason} for reason in reasons]
        time.sleep(LATENCY_SECONDS)
        with self._lock:
            self._open_calls -= 1
        return status, {}, json.dumps(result).encode()

    def _get_item(self, request: Json) -> Json:
        is_known = request["Key"]["token_hash"] == TOKEN_RECORD["token_hash"]
        return {"Item": TOKEN_RECORD} if is_known else {}

    def _query(self, request: Json) -> Json:
        values = request["ExpressionAttributeValues"]
        names = re.findall(r"BETWEEN (:\w+) AND (:\w+)", request["KeyConditionExpression"])[0]
        first, last = (int(values[name]["N"]) for name in names)
        begin, end = bisect_left(self._order, first), bisect_right(self._order, last)
        steps = self._order[begin : min(end, begin + PAGE_RECORDS)]
        keys = [{"model_id": {"S": MODEL}, "step": {"N": str(step)}} for step in steps]
        owners = [values[name]["S"] for name in re.findall(r":\w+", request["FilterExpression"])]
        items = [{"step": key["step"]} for key in keys if self._entity(key) in owners]
        more = {"LastEvaluatedKey": keys[-1]} if begin + PAGE_RECORDS < end else {}
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
            return "attribute_not_exists(entity)" in delete["ConditionExpression"]
        return {"S": entity} in delete["ExpressionAttributeValues"].values()

    def _entity(self, key: Json) -> str | None:
        return self.entities.get(int(key["step"]["N"])) if key["model_id"]["S"] == MODEL else None
