"""S3 in this process, with one bucket for artifacts, the checkpoints table's stream, and a queue.

For the demo and the tests. Use it within `embedded_dynamodb`. It uses moto too.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from unittest import mock
from urllib.parse import urlparse

import xmltodict  # type: ignore[import-untyped]
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.core.responses import ActionResult
from moto.s3.models import FakeBucket, S3Backend, s3_backends
from moto.s3.responses import S3Response
from moto.sqs.models import SQSBackend, sqs_backends

from emulators.dynamodb import REGION, moto_tables
from emulators.invocation import lambda_context
from emulators.records import ARTIFACTS_BUCKET as BUCKET

QUEUE = "ReclaimQueue"


@contextmanager
def embedded_bucket() -> Iterator[None]:
    """Run the block with an empty bucket and an empty queue without delay, and with a stream.

    The name of the bucket is in ARTIFACTS_BUCKET, and the URL of the queue in RECLAIM_QUEUE_URL.
    """
    table = os.environ["CHECKPOINTS_TABLE"]
    moto_tables()[table].set_stream_specification({"StreamViewType": "OLD_IMAGE"})
    _backend().create_bucket(BUCKET, REGION)
    url = _sqs().create_queue(QUEUE).url(urlparse(f"https://sqs.{REGION}.amazonaws.com"))
    try:
        with (
            mock.patch.dict(os.environ, ARTIFACTS_BUCKET=BUCKET, RECLAIM_QUEUE_URL=url),
            mock.patch.object(S3Response, "_bucket_response_delete_keys", _delete_objects),
        ):
            yield
    finally:
        clear_bucket()
        _backend().delete_bucket(BUCKET)
        _sqs().delete_queue(QUEUE)
        moto_tables()[table].set_stream_specification(None)
        moto_tables()[table].stream_shard = None  # moto does not remove it


def put_objects(*keys: str, content: bytes = b"weights", saved_at: datetime | None = None) -> None:
    """Save an object at each key, now or with another modification time."""
    for key in keys:
        stored = _backend().put_object(BUCKET, key, content)
        if saved_at:
            stored.last_modified = saved_at.astimezone(UTC).replace(tzinfo=None)


def stored_objects() -> set[str]:
    """Return the keys of all objects."""
    return set(_bucket().keys)


def clear_bucket() -> None:
    """Remove every object."""
    _bucket().keys.clear()


def stream_event() -> dict[str, Any]:
    """Return the changes of the checkpoints table since the last call, as a Lambda event.

    The filter of the event source mapping is not applied: the event has every change.
    """
    shard: Any = moto_tables()[os.environ["CHECKPOINTS_TABLE"]].stream_shard
    records = [item.to_json() for item in shard.items]
    shard.starting_sequence_number += len(records)  # the number of the next record
    shard.items.clear()
    source = f"{shard.table.table_arn}/stream/{shard.table.latest_stream_label}"
    event = {"Records": [{**record, "eventSourceARN": source} for record in records]}
    return json.loads(json.dumps(event, default=_to_seconds))  # type: ignore[no-any-return]


def queue_events() -> list[dict[str, Any]]:
    """Return what waits in the queue, as a Lambda event for each message, and empty the queue."""
    messages = _sqs().get_queue(QUEUE).messages
    _sqs().delete_queue(QUEUE)
    _sqs().create_queue(QUEUE)
    return [queue_event(message.body) for message in messages]


def queue_event(body: str) -> dict[str, Any]:
    """Return a Lambda event with one message."""
    return {"Records": [{"messageId": "1", "body": body, "eventSource": "aws:sqs"}]}


def free_storage() -> None:
    """Free the storage of what was deleted, through the stream, the queue and their functions."""
    from checkpoints.reclaim import app, queue  # noqa: PLC0415 they need the environment

    queue.lambda_handler(stream_event(), lambda_context())
    for message in queue_events():
        app.lambda_handler(message, lambda_context(app.MIN_REMAINING_MS * 2))


def _to_seconds(time: datetime) -> int:
    return int(time.replace(tzinfo=UTC).timestamp())


def _backend() -> S3Backend:
    return s3_backends[DEFAULT_ACCOUNT_ID]["aws"]


def _sqs() -> SQSBackend:
    return sqs_backends[DEFAULT_ACCOUNT_ID][REGION]


def _bucket() -> FakeBucket:
    return _backend().buckets[BUCKET]


# moto's DeleteObjects ignores the ETags of the objects. Its DeleteObject does check If-Match.
def _delete_objects(self: S3Response, bucket: str, **_: object) -> object:
    """Delete objects as S3 does: if an ETag is given, only an object with this ETag."""
    document = xmltodict.parse(self.body, strip_whitespace=False, force_list=("Object",))
    deleted, errors = [], []
    for requested in document["Delete"]["Object"]:
        key, etag = requested["Key"], requested.get("ETag")
        stored = self.backend.get_object(bucket, key)
        if etag and not stored:
            errors.append({"Key": key, "Code": "NoSuchKey"})
        elif etag and stored and etag.strip('"') != stored.etag.strip('"'):
            errors.append({"Key": key, "Code": "PreconditionFailed"})
        else:
            self.backend.delete_object(bucket, key)
            deleted.append({"Key": key})
    self.data["Action"] = "DeleteObjects"
    return self.serialized(ActionResult({"Deleted": deleted, "Errors": errors}))
