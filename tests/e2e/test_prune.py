"""Pruning models through the deployed API."""

import json
import time

from deployment import Deployment, run_checkpoints
from events import MODEL


def test_keeps_the_last_and_the_best_and_deletes_the_rest(
    deployment: Deployment, token: str
) -> None:
    deployment.put_checkpoints(range(1_500))
    deployment.put_checkpoints([700], metrics={"M": {"val/loss": {"N": "0.25"}}})
    rules = ["--keep-last", "5", "--keep-best", "val/loss:min", "--delete-unscored"]
    command = ["prune", MODEL, *rules, "--yes"]

    first = run_checkpoints(deployment, *command, CHECKPOINTS_TOKEN=token)

    assert 0 == first.returncode, first.stderr
    assert "Deleted: 1,494. Kept: 6." in first.stdout
    assert {700, *range(1_495, 1_500)} == deployment.stored_steps()

    again = run_checkpoints(deployment, *command, CHECKPOINTS_TOKEN=token)

    assert (0, 6) == (again.returncode, len(deployment.stored_steps()))


def test_reads_what_records_say_and_prints_the_results_of_several_models(
    deployment: Deployment, token: str
) -> None:
    size = {"N": "12400000000"}
    old, new = ({"N": str(int(time.time()) - age)} for age in (90_000, 60))
    hidden = {"S": "A wrong type protects, but is not listed."}
    deployment.put_checkpoints(range(3), size_bytes=size, created_at=old)
    deployment.put_checkpoints([3], size_bytes=size, created_at=old, protected={"BOOL": True})
    deployment.put_checkpoints([4], created_at=old, protected=hidden)
    deployment.put_checkpoints([5], created_at=new)
    deployment.put_checkpoints([1, 2], model_id="gpt-small", created_at=new)
    rules = ["--keep-newer-than", "1d", "--keep", "2,0"]

    result = run_checkpoints(
        deployment, "prune", MODEL, "gpt-small", *rules, "--yes", "--json", CHECKPOINTS_TOKEN=token
    )

    assert 0 == result.returncode, result.stderr
    first, second = json.loads(result.stdout)["models"]
    keep = [
        {"step": 0, "reasons": ["listed"]},
        {"step": 2, "reasons": ["listed"]},
        {"step": 3, "reasons": ["protected"]},
        {"step": 5, "reasons": ["newer than 1d"]},
    ]
    assert (keep, [1, 4]) == (first["keep"], first["delete"])
    assert (12_400_000_000, 1) == (first["delete_size_bytes"], first["delete_sizes_known"])
    assert (1, [4], []) == (first["deleted_count"], first["protected_steps"], first["left"])
    assert (1, 0) == (len(first["request_ids"]), first["unknown_request_ids"])
    assert ("gpt-small", []) == (second["model"], second["delete"])
    assert {0, 2, 3, 4, 5} == deployment.stored_steps()
