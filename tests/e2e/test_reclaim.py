"""Storage is freed in the deployed stack: by its stream, its queues, its roles, and S3."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

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


def wait_for_dead_letters(deployment: Deployment, count: int) -> None:
    """Wait until so many messages have failed five times."""
    wait_for(lambda: waiting(deployment, "DeadLetterQueueUrl") == count, seconds=120)


def set_freeing(deployment: Deployment, *, enabled: bool) -> None:
    """Stop or start freeing, as the runbook says."""
    deployment.cloud.client("lambda").update_event_source_mapping(
        UUID=deployment.outputs["ReclaimMappingId"], Enabled=enabled
    )


@pytest.fixture
def change_role(deployment: Deployment) -> Iterator[Callable[[str], Role]]:
    """Return the role of a function by its logical id; its policy is restored after the test."""
    roles: list[Role] = []

    def role_of(name: str) -> Role:
        roles.append(Role(deployment, name))
        return roles[-1]

    yield role_of
    for role in roles:
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


def test_frees_the_storage_of_exactly_the_deleted_checkpoints(
    deployment: Deployment, send: Send
) -> None:
    saved = {step: save(deployment, "frees", step) for step in (1, 10, 2)}
    wait_until_old()

    response = send([1, 2, 3], model_id="frees")

    assert {"deleted_count": 2, "not_found_steps": [3]} == response.body
    wait_for(lambda: deployment.outcomes("frees") == {1: "freed", 2: "freed"})
    assert saved[10] == stored(deployment, "frees")


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
    set_freeing(deployment, enabled=False)
    try:
        send([1, 2], model_id="undone")
        wait_for(lambda: waiting(deployment, "ReclaimQueueUrl") == 2)
        uri = f"s3://{ARTIFACTS_BUCKET}/undone/1/"
        deployment.put_checkpoints([1], model_id="undone", artifact_uri={"S": uri})
        assert {*saved[0], *saved[1]} == stored(deployment, "undone")
    finally:
        set_freeing(deployment, enabled=True)

    wait_for(lambda: deployment.outcomes("undone") == {1: "kept", 2: "freed"})
    assert saved[0] == stored(deployment, "undone")


def test_frees_the_storage_of_a_thousand_checkpoints_within_a_minute(
    deployment: Deployment, send: Send
) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda step: save(deployment, "thousand", step), range(1_001)))
    wait_until_old()

    response = send(list(range(1, 1_001)), model_id="thousand")

    assert {"deleted_count": 1_000, "not_found_steps": []} == response.body
    wait_for(lambda: len(stored(deployment, "thousand")) <= 3, seconds=60)
    left = stored(deployment, "thousand")
    assert {"thousand/0"} == {key.rpartition("/")[0] for key in left if "é" not in key}
    assert 3 == len(left)


@pytest.mark.parametrize(
    "action", ["dynamodb:GetItem", "dynamodb:Query", "s3:DeleteObject", "s3:ListBucket"]
)
def test_freeing_needs_each_action_and_what_failed_can_be_redriven(
    deployment: Deployment, send: Send, change_role: Callable[[str], Role], action: str
) -> None:
    model_id = action.replace(":", "-")
    saved = save(deployment, model_id, 1)
    wait_until_old()
    role = change_role("ReclaimFunctionRole")

    role.take_away(action)
    set_queue(deployment, VisibilityTimeout=1)  # five attempts in seconds instead of hours
    response = send([1], model_id=model_id)

    assert 1 == response.body["deleted_count"]
    wait_for_dead_letters(deployment, 1)
    assert {1: "retry"} == deployment.outcomes(model_id)
    assert saved == stored(deployment, model_id)

    role.give_back()
    redrive(deployment)
    wait_for(lambda: stored(deployment, model_id) == set())


def test_records_wait_in_the_stream_while_the_queue_accepts_none(
    deployment: Deployment, send: Send, change_role: Callable[[str], Role]
) -> None:
    saved = save(deployment, "unsent", 1)
    wait_until_old()
    role = change_role("QueueFunctionRole")

    role.take_away("sqs:SendMessage")
    send([1], model_id="unsent")
    time.sleep(3)

    assert saved == stored(deployment, "unsent")
    assert {} == deployment.outcomes("unsent")

    role.give_back()
    wait_for(lambda: deployment.outcomes("unsent") == {1: "freed"})
    assert set() == stored(deployment, "unsent")


def test_a_refusal_ends_in_the_dead_letter_queue_and_blocks_no_other(
    deployment: Deployment, send: Send
) -> None:
    covering = {"S": f"s3://{ARTIFACTS_BUCKET}/refused/"}
    wrong = {"SS": [f"s3://{ARTIFACTS_BUCKET}/refused/2/"]}
    saved = {step: save(deployment, "refused", step) for step in (2, 3, 4)}
    deployment.put_checkpoints([1], model_id="refused", artifact_uri=covering)
    deployment.put_checkpoints([2], model_id="refused", artifact_uri=wrong)
    wait_until_old()

    set_queue(deployment, VisibilityTimeout=1)
    send([1, 2, 3], model_id="refused")

    wait_for_dead_letters(deployment, 2)
    assert {1: "refused", 2: "refused"}.items() <= deployment.outcomes("refused").items()
    assert saved[2] | saved[4] == stored(deployment, "refused")
