"""Storage is freed in the deployed stack: by its stream, its queues, its roles, and S3."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from deployment import Deployment, Role, Send
from emulators.records import ARTIFACTS_BUCKET


@pytest.fixture(autouse=True)
def _empty_queues(deployment: Deployment) -> None:
    """Start with no dead letters, no delay and the template's time between two attempts."""
    list(take_dead_letters(deployment))
    set_queue(deployment, VisibilityTimeout=1_800, DelaySeconds=0)


def set_queue(deployment: Deployment, **attributes: int) -> None:
    deployment.cloud.client("sqs").set_queue_attributes(
        QueueUrl=deployment.outputs["ReclaimQueueUrl"],
        Attributes={name: str(value) for name, value in attributes.items()},
    )


def waiting(deployment: Deployment, output: str) -> int:
    """Return the number of messages that wait in a queue."""
    response = deployment.cloud.client("sqs").get_queue_attributes(
        QueueUrl=deployment.outputs[output], AttributeNames=["ApproximateNumberOfMessages"]
    )
    return int(response["Attributes"]["ApproximateNumberOfMessages"])


def take_dead_letters(deployment: Deployment) -> Iterator[str]:
    """Yield the body of each message in the dead-letter queue, and delete the message."""
    sqs = deployment.cloud.client("sqs")
    url = deployment.outputs["DeadLetterQueueUrl"]
    while messages := sqs.receive_message(QueueUrl=url).get("Messages"):
        for message in messages:
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
            yield message["Body"]


def redrive(deployment: Deployment) -> None:
    """Move the dead letters back. The emulator has no StartMessageMoveTask, which does this."""
    set_queue(deployment, VisibilityTimeout=1_800)
    queue = deployment.outputs["ReclaimQueueUrl"]
    for body in take_dead_letters(deployment):
        deployment.cloud.client("sqs").send_message(QueueUrl=queue, MessageBody=body)


@contextmanager
def freeing_stopped(deployment: Deployment) -> Iterator[None]:
    """Run the block while freeing is stopped, as the runbook says."""
    client = deployment.cloud.client("lambda")
    mapping = deployment.outputs["ReclaimMappingId"]
    client.update_event_source_mapping(UUID=mapping, Enabled=False)
    try:
        yield
    finally:
        client.update_event_source_mapping(UUID=mapping, Enabled=True)


@contextmanager
def denied(deployment: Deployment, role_name: str, action: str) -> Iterator[None]:
    """Run the block while the role of a function lacks an action."""
    role = Role(deployment, role_name)
    role.take_away(action)
    try:
        yield
    finally:
        role.give_back()


def save(
    deployment: Deployment, model_id: str, step: int, content: bytes | None = None
) -> set[str]:
    """Save a checkpoint with three objects, and return their keys."""
    keys = {f"{model_id}/{step}/{name}" for name in ("weights", "optimizer +%41", "é/config")}
    # Unless told, no two saves have the same bytes.
    deployment.put_objects(*keys, body=content or os.urandom(7))
    uri = f"s3://{ARTIFACTS_BUCKET}/{model_id}/{step}/"
    deployment.put_checkpoints([step], model_id=model_id, artifact_uri={"S": uri})
    return keys


def stored(deployment: Deployment, model_id: str) -> set[str]:
    return {key for key in deployment.stored_objects() if key.startswith(f"{model_id}/")}


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.5)


def wait_until_old() -> None:
    """Wait until the next second, because objects saved in the same second are kept."""
    time.sleep(1.1)


def test_a_checkpoint_that_is_saved_again_within_the_delay_keeps_all_artifacts(
    deployment: Deployment, send: Send
) -> None:
    """Its bytes are the same, so that S3 cannot tell the new objects from the old ones."""
    set_queue(deployment, DelaySeconds=4)
    save(deployment, "anew", 7, b"the same")
    wait_until_old()

    response = send([7], model_id="anew")
    saved = save(deployment, "anew", 7, b"the same")

    assert 1 == response.body["deleted_count"]
    assert {} == deployment.outcomes("anew")
    wait_for(lambda: deployment.outcomes("anew") == {7: "kept"})
    assert saved == stored(deployment, "anew")
    assert {7} == deployment.stored_steps("anew")


def test_a_delete_can_be_undone_while_freeing_is_stopped(
    deployment: Deployment, send: Send
) -> None:
    saved = [save(deployment, "undone", step) for step in (1, 2)]
    wait_until_old()
    with freeing_stopped(deployment):
        send([1, 2], model_id="undone")
        wait_for(lambda: waiting(deployment, "ReclaimQueueUrl") == 2)
        uri = f"s3://{ARTIFACTS_BUCKET}/undone/1/"
        deployment.put_checkpoints([1], model_id="undone", artifact_uri={"S": uri})
        assert {*saved[0], *saved[1]} == stored(deployment, "undone")

    wait_for(lambda: deployment.outcomes("undone") == {1: "kept", 2: "freed"})
    assert saved[0] == stored(deployment, "undone")


@pytest.mark.parametrize(
    "action", ["dynamodb:GetItem", "dynamodb:Query", "s3:DeleteObject", "s3:ListBucket"]
)
def test_freeing_needs_each_action_and_what_failed_can_be_redriven(
    deployment: Deployment, send: Send, action: str
) -> None:
    model_id = action.replace(":", "-")
    saved = save(deployment, model_id, 1)
    wait_until_old()

    with denied(deployment, "ReclaimFunctionRole", action):
        set_queue(deployment, VisibilityTimeout=1)  # five attempts in seconds instead of hours
        response = send([1], model_id=model_id)

        assert 1 == response.body["deleted_count"]
        wait_for(lambda: waiting(deployment, "DeadLetterQueueUrl") == 1, seconds=120)
        assert {1: "retry"} == deployment.outcomes(model_id)
        assert saved == stored(deployment, model_id)

    redrive(deployment)
    wait_for(lambda: stored(deployment, model_id) == set())


def test_records_wait_in_the_stream_while_the_queue_accepts_none(
    deployment: Deployment, send: Send
) -> None:
    saved = save(deployment, "unsent", 1)
    wait_until_old()

    with denied(deployment, "QueueFunctionRole", "sqs:SendMessage"):
        send([1], model_id="unsent")
        time.sleep(3)

        assert saved == stored(deployment, "unsent")
        assert {} == deployment.outcomes("unsent")

    wait_for(lambda: deployment.outcomes("unsent") == {1: "freed"})
    assert set() == stored(deployment, "unsent")


def test_frees_the_storage_of_a_thousand_checkpoints_and_nothing_else_within_a_minute(
    deployment: Deployment, send: Send
) -> None:
    with ThreadPoolExecutor(8) as pool:
        *_, other = pool.map(lambda step: save(deployment, "frees", step), range(1, 1_002))
    wait_until_old()

    response = send([*range(1, 1_001), 2_000], model_id="frees")

    assert {"deleted_count": 1_000, "not_found_steps": [2_000]} == response.body
    wait_for(lambda: len(stored(deployment, "frees")) <= len(other))
    assert other == stored(deployment, "frees")
    wait_for(lambda: len(deployment.outcomes("frees")) == 1_000)
    assert {"freed"} == set(deployment.outcomes("frees").values())
