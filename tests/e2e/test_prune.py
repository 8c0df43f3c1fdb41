"""Pruning a model through the deployed API."""

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
