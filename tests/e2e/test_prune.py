"""Pruning a model through the deployed API."""

import os
import subprocess
import sys

from deployment import Deployment
from emulators.aws import ROOT
from emulators.records import put_checkpoints
from events import ENTITY, MODEL


def prune(
    deployment: Deployment, token: str, *rules: str, model_id: str = MODEL
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 it is ours
        [sys.executable, "-W", "error", ROOT / "cli" / "prune.py", model_id, *rules, "--yes"],
        env=os.environ
        | {"CHECKPOINTS_API_URL": deployment.outputs["ApiUrl"], "CHECKPOINTS_TOKEN": token},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


def test_keeps_the_last_and_the_best_and_deletes_the_rest(
    deployment: Deployment, token: str
) -> None:
    deployment.put_checkpoints(range(1_500))
    put_checkpoints(
        deployment.cloud.client("dynamodb"),
        deployment.outputs["CheckpointsTableName"],
        MODEL,
        [700],
        entity=ENTITY,
        metrics={"M": {"val/loss": {"N": "0.25"}}},
    )

    rules = ["--keep-last", "5", "--keep-best", "val/loss:min", "--delete-unscored"]

    first = prune(deployment, token, *rules)

    assert 0 == first.returncode, first.stderr
    assert "Deleted: 1,494. Kept: 6." in first.stdout
    assert {700, *range(1_495, 1_500)} == deployment.stored_steps()

    again = prune(deployment, token, *rules)

    assert (0, 6) == (again.returncode, len(deployment.stored_steps()))


def test_a_token_that_may_not_delete_deletes_nothing(deployment: Deployment) -> None:
    deployment.put_checkpoints(range(20))
    token = deployment.issue_token("reader", scopes=["checkpoints:read"])

    refused = prune(deployment, token, "--keep-last", "5")

    assert 1 == refused.returncode
    assert "Ask for a token with the scopes" in refused.stderr
    assert refused.stderr.endswith("checkpoints:delete. Deleted: 0 of 15.\n")
    assert set(range(20)) == deployment.stored_steps()
