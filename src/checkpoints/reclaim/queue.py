"""Send a message for each deleted record: a Lambda function on the checkpoints table's stream.

It decides nothing. The messages wait in the queue, so that a checkpoint that is saved again has its
record before `checkpoints.reclaim.app` looks at it.
"""

import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import boto3
from aws_lambda_powertools.utilities.typing import LambdaContext

from checkpoints.reclaim import CONFIG, MAX_ATTEMPTS
from checkpoints.reclaim.reasons import Refusal
from checkpoints.records.record import is_protected

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import SendMessageBatchRequestEntryTypeDef

MAX_CHARACTERS = 2_000  # of the URI and the entity in a message; a valid URI has fewer

# SQS's limits for a batch. The size in bytes was 256 KB for years, and can be higher now.
MAX_BATCH_MESSAGES = 10
MAX_BATCH_BYTES = 250_000

RESEND_BACKOFF_SECONDS = 0.5  # times the number of the resend, for messages that SQS did not accept

# Who removed an item, in a record of the stream, if its time to live ended.
_EXPIRY = {"type": "Service", "principalId": "dynamodb.amazonaws.com"}


class NotSentError(Exception):
    """SQS did not accept some messages; Lambda sends the records again."""


class Message(NamedTuple):
    """A deleted record, as it waits in the queue.

    `problem` says why the URI cannot be used, and `started` that the deletion of its artifacts has
    begun.
    """

    model_id: str
    step: str  # DynamoDB's number; a float of another program could not hold every step
    entity: str
    artifact_uri: str
    deleted_at: str  # in ISO 8601
    deleted_by: str  # `expiry`, or `request` if it was anything else
    protected: bool
    problem: str | None = None
    started: bool = False

    @classmethod
    def from_stream(cls, record: Mapping[str, Any]) -> Self | None:
        """Read a record of the stream; return `None` if there are no artifacts to delete."""
        change = record["dynamodb"]
        image = change.get("OldImage", {})
        if record["eventName"] != "REMOVE" or (image and "artifact_uri" not in image):
            return None
        attribute = image.get("artifact_uri", {"S": ""})
        uri = attribute.get("S")
        problem: str | None = None
        if not image:
            problem = Refusal.NO_OLD_IMAGE
        elif uri is None:
            problem = Refusal.NOT_A_STRING
        elif len(uri) > MAX_CHARACTERS:
            problem = Refusal.URI_TOO_LONG
        # Rounded down, so that objects stay that were saved in the same second.
        deleted_at = math.floor(float(change["ApproximateCreationDateTime"]))
        return cls(
            model_id=change["Keys"]["model_id"]["S"],
            step=change["Keys"]["step"]["N"],
            entity=image.get("entity", {}).get("S", "")[:MAX_CHARACTERS],
            artifact_uri=(json.dumps(attribute) if uri is None else uri)[:MAX_CHARACTERS],
            deleted_at=datetime.fromtimestamp(deleted_at, UTC).isoformat(),
            deleted_by="expiry" if record.get("userIdentity") == _EXPIRY else "request",
            protected=is_protected(image),
            problem=problem,
        )

    @classmethod
    def read(cls, body: str) -> Self:
        """Read the body of a message."""
        return cls(**json.loads(body))

    def to_body(self) -> str:
        """Return the body of the message, in ASCII, because SQS refuses some characters."""
        fields = self._asdict()
        for key, default in self._field_defaults.items():
            if fields[key] == default:
                del fields[key]
        return json.dumps(fields)


def lambda_handler(event: dict[str, Any], context: LambdaContext) -> None:  # noqa: ARG001 Lambda's
    """Send a message for each record of the batch that was deleted and had artifacts.

    Raises:
        NotSentError: SQS did not accept all messages. Lambda sends the whole batch again, and to
            have two messages for one record does no harm.
        BotoCoreError, ClientError: the same, for a call to SQS that failed.

    """
    messages = map(Message.from_stream, event["Records"])
    for bodies in _split(message.to_body() for message in messages if message):
        _send(bodies)


def send(message: Message, *, delay_seconds: int) -> None:
    """Send one message, with a delay of its own."""
    connect().send_message(
        QueueUrl=os.environ["RECLAIM_QUEUE_URL"],
        MessageBody=message.to_body(),
        DelaySeconds=delay_seconds,
    )


def _split(bodies: Iterable[str]) -> Iterator[list[str]]:
    """Yield the bodies in batches that SQS accepts."""
    batch: list[str] = []
    size = 0
    for body in bodies:
        size += len(body)
        if batch and (len(batch) == MAX_BATCH_MESSAGES or size > MAX_BATCH_BYTES):
            yield batch
            batch, size = [], len(body)
        batch.append(body)
    if batch:
        yield batch


def _send(bodies: list[str]) -> None:
    entries: list[SendMessageBatchRequestEntryTypeDef] = [
        {"Id": str(number), "MessageBody": body} for number, body in enumerate(bodies)
    ]
    for attempt in range(MAX_ATTEMPTS):
        time.sleep(attempt * RESEND_BACKOFF_SECONDS)
        response = connect().send_message_batch(
            QueueUrl=os.environ["RECLAIM_QUEUE_URL"], Entries=entries
        )
        # What is in neither list may not have been sent.
        sent = {each["Id"] for each in response.get("Successful", [])}
        entries = [entry for entry in entries if entry["Id"] not in sent]
        if not entries:
            return
    codes = sorted({each["Code"] for each in response.get("Failed", [])})
    raise NotSentError(f"messages not sent: {len(entries)} ({', '.join(codes)})")


@cache
def connect() -> "SQSClient":
    """Return the client for SQS, one for the lifetime of the process."""
    return boto3.client("sqs", config=CONFIG)


# Connect during Lambda's init phase. If this fails, the first batch fails for the same reason.
with suppress(Exception):
    connect()
