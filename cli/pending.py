"""Look for deleted checkpoints whose storage is not freed yet, in queues and their mappings."""

import math
from collections.abc import Mapping
from typing import Any

import boto3
from botocore.exceptions import ClientError

from cli.errors import CommandError, describe
from cli.stacks import CONFIG

COUNTS = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesDelayed",
    "ApproximateNumberOfMessagesNotVisible",
)


def ensure_freeing(outputs: Mapping[str, str], bucket: str, *, without_freeing: bool) -> None:
    """Check that the stack frees the storage in this bucket, unless `without_freeing`.

    Raises:
        CommandError: it does not.

    """
    own = outputs.get("ArtifactsBucketName")
    if bucket != own and not without_freeing:
        which = f"frees storage only in {own!r}" if own else "frees no storage"
        raise CommandError(
            f"The stack {which}, not in {bucket!r}. The objects of a deleted checkpoint would stay "
            "there, and each later import would register the checkpoint again. Deploy the stack "
            f"with ArtifactsBucket={bucket}. Or add --without-freeing, and do not import again "
            "after you delete checkpoints."
        )


def find_problem(outputs: Mapping[str, str]) -> str | None:
    """Say why a checkpoint that was deleted could be registered again now, or return None.

    Its objects are there until ReclaimFunction has handled its message.

    Raises:
        CommandError: the stack lacks an output, or Lambda or SQS does not answer.

    """
    if "ArtifactsBucketName" not in outputs:
        return None
    for output in ("QueueMappingId", "ReclaimQueueUrl", "DeadLetterQueueUrl"):
        if output not in outputs:
            raise CommandError(f"The stack has no output {output}. Deploy a newer version first.")
    return _find_mapping_problem(outputs["QueueMappingId"]) or _find_messages(outputs)


def _find_mapping_problem(mapping_id: str) -> str | None:
    mapping = _read_mapping("QueueFunction", mapping_id)
    state, result = mapping["State"], mapping.get("LastProcessingResult", "no result")
    if state != "Enabled":
        problem = f"is {state}"
    elif not result.startswith(("OK", "No records")):
        problem = f"reports {result!r}"
    else:
        return None
    return (
        f"The event source mapping of QueueFunction {problem}, so there may be deletions without a "
        "message. Solve this, wait until QueueFunction has read its stream, and try again."
    )


def _find_messages(outputs: Mapping[str, str]) -> str | None:
    counts = {}
    seconds = 0
    for name in ("ReclaimQueue", "DeadLetterQueue"):
        attributes = _read_attributes(name, outputs[f"{name}Url"])
        ready, delayed, in_flight = (int(attributes[count]) for count in COUNTS)
        if ready or delayed or in_flight:
            counts[name] = ready + delayed + in_flight
            # A message in flight can be one whose attempt failed.
            limit = "VisibilityTimeout" if in_flight else "DelaySeconds"
            seconds = int(attributes[limit])
    if not counts:
        return None
    found = " and ".join(f"{count:,} in {name}" for name, count in counts.items())
    if "DeadLetterQueue" in counts:
        when = "Try again when DeadLetterQueue is empty: see ReclaimFailedAlarm in the docs."
    elif state := _find_stopped_state(outputs):
        when = (
            f"The event source mapping of ReclaimFunction is {state}, so nothing is freed. Enable "
            "it, and try again when ReclaimQueue is empty."
        )
    else:
        when = f"Try again in {math.ceil(seconds / 60) + 1} minutes."
    return (
        f"Messages of deleted checkpoints wait: {found}. Until their storage is freed, deleted "
        f"checkpoints could be registered again. {when}"
    )


def _find_stopped_state(outputs: Mapping[str, str]) -> str | None:
    mapping_id = outputs.get("ReclaimMappingId")
    state = _read_mapping("ReclaimFunction", mapping_id)["State"] if mapping_id else "Enabled"
    return None if state == "Enabled" else state


def _read_mapping(function: str, mapping_id: str) -> dict[str, str]:
    try:
        mapping: dict[str, str] = boto3.client("lambda").get_event_source_mapping(UUID=mapping_id)
    except ClientError as error:
        raise CommandError(
            f"Lambda does not describe the event source mapping {mapping_id} of {function}. "
            f"{describe(error)}"
        ) from None
    return mapping


def _read_attributes(name: str, url: str) -> dict[str, str]:
    try:
        response: Any = boto3.client("sqs", config=CONFIG).get_queue_attributes(
            QueueUrl=url, AttributeNames=["All"]
        )
    except ClientError as error:
        raise CommandError(f"SQS does not describe {name} ({url}). {describe(error)}") from None
    attributes: dict[str, str] = response["Attributes"]
    return attributes
