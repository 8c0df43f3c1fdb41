"""A DynamoDB of two tables in memory that counts what it is asked, called directly or over HTTP.

Run as a program it is the HTTP endpoint: it prints its port, and ends with its standard input.
"""

import asyncio
import json
import sys
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from math import ceil
from threading import Thread
from types import SimpleNamespace
from typing import Any, Self

from botocore.exceptions import ClientError

TOKENS_TABLE = "tokens"
CHECKPOINTS_TABLE = "checkpoints"

# What a writer may keep of a checkpoint: its keys, its owner, where it is, when it was made.
RECORD_BYTES = 200

# AWS's units, for records this small: a strongly consistent read is one for each 4 KB, a write one,
# a write in a transaction two. What a cancelled transaction costs, AWS does not say; here the same.
READ_UNIT_BYTES = 4096
PAGE_BYTES = 1024 * 1024

type Request = dict[str, Any]


class Tables:
    """Both tables, with as much of the DynamoDB client as it takes to delete checkpoints."""

    def __init__(self) -> None:
        self._tokens: dict[str, Request] = {}
        self._models: dict[str, dict[str, str]] = {}
        self._steps: dict[str, list[int]] = {}  # in order, those that were deleted since among them
        self._completed: set[str] = set()
        self._usage: list[tuple[int, int]] = []  # read and write units of each call
        self.meta = SimpleNamespace(events=SimpleNamespace(register=lambda *_: None))

    def put_token(self, token_hash: str, entity: str) -> None:
        """Keep a token that may delete."""
        self._tokens[token_hash] = {
            "token_hash": {"S": token_hash},
            "entity": {"S": entity},
            "scopes": {"SS": ["checkpoints:delete"]},
            "name": {"S": "benchmark"},
            "created_at": {"N": "0"},
        }

    def put_checkpoints(
        self, model_id: str, steps: Iterable[int], entity: str, foreign: Iterable[int]
    ) -> None:
        """Have these checkpoints of a model, in ascending order, some of them another entity's."""
        self._models[model_id] = dict.fromkeys(map(str, steps), entity)
        self._models[model_id] |= dict.fromkeys(map(str, foreign), f"not {entity}")
        self._steps[model_id] = self.steps(model_id)
        self._completed.clear()

    def steps(self, model_id: str) -> list[int]:
        """Return the steps at which a model has checkpoints."""
        return [int(step) for step in self._models[model_id]]

    def take_usage(self) -> Request:
        """Return the calls and the units since this was last asked."""
        usage, self._usage = self._usage, []
        return {
            "calls": len(usage),
            "read_units": sum(read for read, _ in usage),
            "write_units": sum(write for _, write in usage),
        }

    def get_item(self, *, Key: Request, **_: object) -> Request:  # noqa: N803 DynamoDB's own
        """Return a token."""
        self._usage.append((1, 0))
        record = self._tokens.get(Key["token_hash"]["S"])
        return {"Item": record} if record else {}

    def query(
        self,
        *,
        ExpressionAttributeValues: Request,  # noqa: N803
        ExclusiveStartKey: Request | None = None,  # noqa: N803
        **_: object,
    ) -> Request:
        """Return the keys of an entity's checkpoints in a range of steps, a page of them."""
        model_id = ExpressionAttributeValues[":model_id"]
        first = int(ExpressionAttributeValues[":first"]["N"])
        if ExclusiveStartKey:
            first = int(ExclusiveStartKey["step"]["N"]) + 1
        last = int(ExpressionAttributeValues[":last"]["N"])
        entity = ExpressionAttributeValues[":entity"]["S"]
        records, steps = self._models.get(model_id["S"], {}), self._steps.get(model_id["S"], [])
        begin, end = bisect_left(steps, first), bisect_right(steps, last)
        page = steps[begin : min(end, begin + PAGE_BYTES // RECORD_BYTES)]
        self._usage.append((ceil(max(1, len(page) * RECORD_BYTES) / READ_UNIT_BYTES), 0))
        keys = map(str, page)
        items = [{"step": {"N": key}} for key in keys if records.get(key) == entity]
        answer: Request = {"Items": items}
        if begin + len(page) < end:
            answer["LastEvaluatedKey"] = {"model_id": model_id, "step": {"N": str(page[-1])}}
        return answer

    def get_paginator(self, operation: str) -> Self:
        """Return what pages through the results of an operation, of which `query` has pages."""
        if operation != "query":
            raise ValueError(operation)
        return self

    def paginate(self, **parameters: Any) -> Iterator[Request]:  # noqa: ANN401
        """Yield each page of a query."""
        page = self.query(**parameters)
        yield page
        while "LastEvaluatedKey" in page:
            page = self.query(**parameters, ExclusiveStartKey=page["LastEvaluatedKey"])
            yield page

    def delete_item(self, **delete: Any) -> Request:  # noqa: ANN401
        """Delete a checkpoint, if there is one, and return what it was."""
        self._usage.append((0, 1))
        if not self._permits(delete):
            code = "ConditionalCheckFailedException"
            raise self._error("DeleteItem", code, "The conditional request failed")
        entity = self._delete(delete)
        if entity is None:
            return {}
        return {"Attributes": {**delete["Key"], "entity": {"S": entity}}}

    def transact_write_items(
        self,
        *,
        TransactItems: list[Request],  # noqa: N803
        ClientRequestToken: str = "",  # noqa: N803
        **_: object,
    ) -> Request:
        """Delete checkpoints together, or none of them; once, however often it is sent."""
        self._usage.append((0, 2 * len(TransactItems)))
        if ClientRequestToken in self._completed:
            return {}
        deletes = [item["Delete"] for item in TransactItems]
        permitted = [self._permits(delete) for delete in deletes]
        if not all(permitted):
            reasons = [
                {"Code": "None"} if permit else {"Code": "ConditionalCheckFailed"}
                for permit in permitted
            ]
            raise self._error(
                "TransactWriteItems",
                "TransactionCanceledException",
                "Transaction cancelled",
                CancellationReasons=reasons,
            )
        for delete in deletes:
            self._delete(delete)
        if ClientRequestToken:
            self._completed.add(ClientRequestToken)
        return {}

    def _permits(self, delete: Request) -> bool:
        entity = self._models.get(delete["Key"]["model_id"]["S"], {}).get(
            delete["Key"]["step"]["N"]
        )
        if entity is None:
            return "attribute_not_exists" in delete["ConditionExpression"]
        return bool(delete["ExpressionAttributeValues"][":entity"]["S"] == entity)

    def _delete(self, delete: Request) -> str | None:
        records = self._models.get(delete["Key"]["model_id"]["S"], {})
        return records.pop(delete["Key"]["step"]["N"], None)

    @staticmethod
    def _error(operation: str, code: str, message: str, **more: object) -> ClientError:
        response: Any = {
            "Error": {"Code": code, "Message": message},
            "ResponseMetadata": {"HTTPStatusCode": 400},
            **more,
        }
        return ClientError(response, operation)


class Endpoint(asyncio.Protocol):
    """One connection, on which DynamoDB's requests come, and those that prepare the tables."""

    tables = Tables()
    latency_seconds = 0.0
    lost_answers = 0

    def __init__(self) -> None:
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to answer."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Answer when a request is complete; the next comes only then."""
        self._received += data
        head, blank, _ = self._received.partition(b"\r\n\r\n")
        if not blank:
            return
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in head.decode().split("\r\n")[1:])
        }
        length = int(headers["content-length"])
        body = bytes(self._received[len(head) + 4 :])
        if len(body) < length:
            return
        self._received.clear()
        service, _, operation = headers["x-amz-target"].partition(".")
        if service == "Stub":
            prepare: Callable[..., Request] = getattr(self, operation)
            self._send(200, prepare(**json.loads(body)))
            return
        status, answer = self._answer(operation, json.loads(body))
        if type(self).lost_answers and operation in ("DeleteItem", "TransactWriteItems"):
            type(self).lost_answers -= 1
            self._transport.close()
            return
        asyncio.get_running_loop().call_later(self.latency_seconds, self._send, status, answer)

    def _answer(self, operation: str, request: Request) -> tuple[int, Request]:
        methods: dict[str, Callable[..., Request]] = {
            "GetItem": self.tables.get_item,
            "Query": self.tables.query,
            "DeleteItem": self.tables.delete_item,
            "TransactWriteItems": self.tables.transact_write_items,
        }
        try:
            return 200, methods[operation](**request)
        except ClientError as error:
            response: Any = error.response
            return 400, {
                "__type": f"com.amazonaws.dynamodb.v20120810#{response['Error']['Code']}",
                "message": response["Error"]["Message"],
                "CancellationReasons": response.get("CancellationReasons", []),
            }

    def _send(self, status: int, answer: Request) -> None:
        body = json.dumps(answer).encode()
        self._transport.write(
            b"HTTP/1.1 %d -\r\nContent-Type: application/x-amz-json-1.0\r\n"
            b"Content-Length: %d\r\nx-amz-crc32: %d\r\n\r\n%b"
            % (status, len(body), zlib.crc32(body), body)
        )

    def prepare(  # noqa: PLR0913 all by name, and by the worker alone
        self,
        *,
        model_id: str,
        steps: list[int],
        entity: str,
        foreign: list[int],
        latency_seconds: float,
        lost_answers: int,
    ) -> Request:
        """Have the checkpoints of a range, and from now on so much latency and so much loss."""
        type(self).latency_seconds = latency_seconds
        type(self).lost_answers = lost_answers
        self.tables.put_checkpoints(model_id, range(*steps), entity, foreign)
        return {}

    def put_token(self, *, token_hash: str, entity: str) -> Request:
        """Keep a token."""
        self.tables.put_token(token_hash, entity)
        return {}

    def report(self, *, model_id: str) -> Request:
        """Return the usage since the last report, and the checkpoints that a model has."""
        return {"usage": self.tables.take_usage(), "remaining": self.tables.steps(model_id)}


async def main() -> None:
    """Serve until standard input ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Endpoint, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    ended = asyncio.Event()
    Thread(
        target=lambda: (sys.stdin.read(), loop.call_soon_threadsafe(ended.set)), daemon=True
    ).start()
    await ended.wait()


if __name__ == "__main__":
    asyncio.run(main())
