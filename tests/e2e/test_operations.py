"""The commands that operate a deployed stack."""

import json
import time
from typing import Any

import requests

from cli.logs import read_events
from deployment import Deployment, run_checkpoints

MODEL = "mistaken"
RESTORED = "restored-checkpoints"


def all_records(deployment: Deployment) -> dict[int, dict[str, Any]]:
    """Return all records of the checkpoints table by their steps."""
    client = deployment.cloud.client("dynamodb")
    table = deployment.outputs["CheckpointsTableName"]
    pages = client.get_paginator("scan").paginate(TableName=table)
    return {int(record["step"]["N"]): record for page in pages for record in page["Items"]}


def wait_for_line(deployment: Deployment, gateway_id: str) -> dict[str, Any]:
    """Return the log line of the request whose response had this id."""
    logs = deployment.cloud.client("logs")
    for _ in range(100):
        for event in read_events(logs, deployment.outputs["ApiFunctionLogGroupName"]):
            if f'"correlation_id":"{gateway_id}"' in event["message"]:
                line: dict[str, Any] = json.loads(event["message"])
                return line
        time.sleep(0.1)
    raise AssertionError("the request is not in the log")


def test_restores_five_thousand_checkpoints_by_the_id_in_the_header_of_the_response(
    deployment: Deployment, token: str
) -> None:
    client = deployment.cloud.client("dynamodb")
    table = deployment.outputs["CheckpointsTableName"]
    attributes: Any = {"metrics": {"M": {"loss": {"N": "0.25"}}}, "notes": {"S": "été"}}
    deployment.put_checkpoints(range(5_000), model_id=MODEL, **attributes)
    before = all_records(deployment)
    client.restore_table_to_point_in_time(
        SourceTableName=table, TargetTableName=RESTORED, UseLatestRestorableTime=True
    )
    try:
        response = requests.delete(
            deployment.url(MODEL),
            json={"steps": list(range(5_000))},
            headers={"Authorization": f"Bearer {token}"},
            timeout=60,
        )
        assert 5_000 == response.json()["deleted_count"]
        gateway_id = response.headers["x-amzn-RequestId"]
        line = wait_for_line(deployment, gateway_id)

        shown = run_checkpoints(deployment, "deletions", MODEL, "--step", "7", "--json")
        process = run_checkpoints(
            deployment, "restore", "--from", RESTORED, "--request", gateway_id
        )

        (deletion,) = json.loads(shown.stdout)
        ids = ("function_request_id", "correlation_id")
        assert [line[name] for name in ids] == [deletion[name] for name in ids]
        assert [[0, 4_999]] == deletion["deleted_steps"]
        assert (0, "") == (process.returncode, process.stderr.partition("\n")[2])
        assert process.stdout == (
            f"Model: '{MODEL}'\nFrom: {RESTORED}\nTo: {table}\n  Copied back: 5,000 (0-4999)\n"
        )
        assert before == all_records(deployment)
    finally:
        client.delete_table(TableName=RESTORED)


def test_a_restored_record_loses_the_expiry_that_would_delete_it_again(
    deployment: Deployment,
) -> None:
    """The local cloud ignores the parameter ExpireCheckpoints, so switch time to live on here."""
    client = deployment.cloud.client("dynamodb")
    table = deployment.outputs["CheckpointsTableName"]
    expired, later = ({"N": str(int(time.time()) + seconds)} for seconds in (-60, 3_600))
    deployment.put_checkpoints([1], model_id=MODEL, expires_at=expired)
    deployment.put_checkpoints([2], model_id=MODEL, expires_at=later)
    client.restore_table_to_point_in_time(
        SourceTableName=table, TargetTableName=RESTORED, UseLatestRestorableTime=True
    )
    set_expiry(deployment, enabled=True)
    try:
        delete_records(deployment, [1, 2])
        arguments = ["--from", RESTORED, "--model", MODEL, "--steps", "1-2"]

        first, second = (run_checkpoints(deployment, "restore", *arguments) for _ in range(2))

        assert (0, 0) == (first.returncode, second.returncode), first.stderr
        assert "Without their expires_at" in first.stdout
        assert second.stdout.endswith("  Already there: 2 (1-2)\n")
        records = all_records(deployment)
        assert [None, later] == [records[step].get("expires_at") for step in (1, 2)]
    finally:
        set_expiry(deployment, enabled=False)
        client.delete_table(TableName=RESTORED)


def set_expiry(deployment: Deployment, *, enabled: bool) -> None:
    deployment.cloud.client("dynamodb").update_time_to_live(
        TableName=deployment.outputs["CheckpointsTableName"],
        TimeToLiveSpecification={"AttributeName": "expires_at", "Enabled": enabled},
    )


def delete_records(deployment: Deployment, steps: list[int]) -> None:
    """Delete records, unless time to live was faster."""
    for step in steps:
        deployment.cloud.client("dynamodb").delete_item(
            TableName=deployment.outputs["CheckpointsTableName"],
            Key={"model_id": {"S": MODEL}, "step": {"N": str(step)}},
        )


def test_a_good_stack_passes_the_smoke_test(deployment: Deployment) -> None:
    process = run_checkpoints(deployment, "smoke", "--url", deployment.outputs["ApiUrl"])

    assert (0, "") == (process.returncode, process.stderr), process.stdout
    assert process.stdout.endswith("\n11 checks passed, 0 failed.\n")
    assert {} == all_records(deployment)
