"""Import registers what is in the bucket of the deployed stack, and nothing that was deleted."""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from deployment import Deployment, Send, run_checkpoints
from emulators.records import ARTIFACTS_BUCKET
from events import ENTITY

STEPS = range(100, 700, 100)


@pytest.fixture
def model(deployment: Deployment) -> str:
    """Return the id of a model whose checkpoints are in the bucket, as Transformers saves them."""
    model_id = f"import é +%41/run {time.time_ns()}"
    state = {"log_history": [{"step": step, "loss": 1 / step} for step in STEPS]}
    for step in STEPS:
        folder = f"{model_id}/checkpoint-{step}"
        deployment.put_objects(f"{folder}/model.safetensors", f"{folder}/optimizer.pt")
        deployment.put_objects(f"{folder}/trainer_state.json", body=json.dumps(state).encode())
    time.sleep(1.1)  # objects that are saved in the second of the deletion are kept
    return model_id


def run_import(deployment: Deployment, model: str, *, settle: str = "0s") -> tuple[int, str, str]:
    """Import below the folder of the model; return the exit code and the output."""
    done = run_checkpoints(
        deployment,
        *("records", "import", f"s3://{ARTIFACTS_BUCKET}/{model}/", "--entity", ENTITY),
        *("--min-age", "0s", "--settle", settle, "--yes"),
    )
    return done.returncode, done.stdout, done.stderr


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.5)


def folders(deployment: Deployment, model: str) -> set[str]:
    keys = (key for key in deployment.stored_objects() if key.startswith(model))
    return {key.split("/")[2] for key in keys}


def test_a_deleted_checkpoint_does_not_come_back(
    deployment: Deployment, send: Send, model: str
) -> None:
    # Other tests have left messages.
    wait_for(lambda: run_import(deployment, model)[1].endswith("Registered: 6.\n"))
    (listed, *_) = send(method="GET", model_id=model).body["data"]
    assert (100, {"loss": 0.01}) == (listed["step"], listed["metrics"])

    queue = {"QueueUrl": deployment.outputs["ReclaimQueueUrl"]}
    sqs = deployment.cloud.client("sqs")
    sqs.set_queue_attributes(**queue, Attributes={"DelaySeconds": "10"})
    try:
        send([200], model_id=model)
        # With less time, it could write before QueueFunction has sent the message.
        told = run_import(deployment, model, settle="5s")[2]
        assert "1 in ReclaimQueue" in told
        assert set(STEPS) - {200} == deployment.stored_steps(model)
        assert "checkpoint-200" in folders(deployment, model)
        wait_for(lambda: "checkpoint-200" not in folders(deployment, model))
    finally:
        sqs.set_queue_attributes(**queue, Attributes={"DelaySeconds": "0"})

    wait_for(lambda: run_import(deployment, model)[0] == 0)
    assert set(STEPS) - {200} == deployment.stored_steps(model)


def test_runs_beside_deletions(deployment: Deployment, send: Send, model: str) -> None:
    kept = {100, 600}
    wait_for(lambda: run_import(deployment, model)[1].endswith("Registered: 6.\n"))

    def delete() -> None:
        for step in set(STEPS) - kept:
            assert 1 == send([step], model_id=model).body["deleted_count"]
            time.sleep(2)

    with ThreadPoolExecutor() as pool:
        deleting = pool.submit(delete)
        while not deleting.done():
            code, _, errors = run_import(deployment, model, settle="5s")
            assert code == 0 or "could be registered again" in errors, errors
        deleting.result()

    wait_for(lambda: folders(deployment, model) == {f"checkpoint-{step}" for step in kept})
    wait_for(lambda: run_import(deployment, model)[0] == 0)
    assert kept == deployment.stored_steps(model)
