"""Storage is freed in the deployed stack: by its stream, its filter, its role, and S3."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from deployment import Deployment, Role, Send, run_script
from emulators.records import ARTIFACTS_BUCKET
from scripts import reclaim


@pytest.fixture
def reclaim_role(deployment: Deployment) -> Iterator[Role]:
    """Return the role of the function, and restore its policy after the test."""
    role = Role(deployment, "ReclaimFunctionRole")
    yield role
    role.give_back()


def save(deployment: Deployment, model_id: str, step: int) -> set[str]:
    """Save a checkpoint with three objects, and return their keys."""
    keys = {f"{model_id}/{step}/{name}" for name in ("weights", "optimizer +%41", "é/config")}
    deployment.put_objects(*keys, body=os.urandom(7))  # no two saves have the same bytes
    uri = f"s3://{ARTIFACTS_BUCKET}/{model_id}/{step}/"
    deployment.put_checkpoints([step], model_id=model_id, artifact_uri={"S": uri})
    return keys


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


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
    assert saved[10] == {key for key in deployment.stored_objects() if key.startswith("frees/")}


def test_artifacts_that_are_saved_again_right_after_the_deletion_stay(
    deployment: Deployment, send: Send
) -> None:
    save(deployment, "anew", 7)
    wait_until_old()

    response = send([7], model_id="anew")
    saved = save(deployment, "anew", 7)

    assert 1 == response.body["deleted_count"]
    wait_for(lambda: 7 in deployment.outcomes("anew"))
    assert saved == {key for key in deployment.stored_objects() if key.startswith("anew/")}
    assert {7} == deployment.stored_steps("anew")


def test_frees_the_storage_of_a_thousand_checkpoints(deployment: Deployment, send: Send) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda step: save(deployment, "thousand", step), range(1_000)))
    wait_until_old()

    response = send(list(range(1, 1_000)), model_id="thousand")

    assert {"deleted_count": 999, "not_found_steps": []} == response.body
    wait_for(lambda: len(deployment.outcomes("thousand")) == 999)
    left = {key for key in deployment.stored_objects() if key.startswith("thousand/")}
    assert {"thousand/0"} == {key.rpartition("/")[0] for key in left if "é" not in key}
    assert 3 == len(left)


@pytest.mark.parametrize("action", ["dynamodb:GetItem", "s3:DeleteObject", "s3:ListBucket"])
def test_the_function_needs_each_action_and_its_work_can_be_retried(
    deployment: Deployment, send: Send, reclaim_role: Role, action: str
) -> None:
    model_id = action.replace(":", "-")
    saved = save(deployment, model_id, 1)
    wait_until_old()

    reclaim_role.take_away(action)
    response = send([1], model_id=model_id)

    assert 1 == response.body["deleted_count"]
    wait_for(lambda: deployment.outcomes(model_id) == {1: "failed"})
    assert saved <= deployment.stored_objects()

    reclaim_role.give_back()
    done = run_script(deployment, reclaim, "--log", "--since", "1h")

    assert (0, "Freed: 1 (3 objects, 21 B)\n") == (done.returncode, done.stdout), done.stderr
    assert saved.isdisjoint(deployment.stored_objects())
