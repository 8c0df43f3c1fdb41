"""The commands that operate a deployed stack."""

import json
import time
from typing import Any

from cli.logs import read_events
from deployment import Deployment, Send, run_checkpoints

MODEL = "mistaken"
RESTORED = "restored-checkpoints"


def all_records(deployment: Deployment) -> dict[int, dict[str, Any]]:
    """Return all records of the checkpoints table by their steps."""
    client = deployment.cloud.client("dynamodb")
    table = deployment.outputs["CheckpointsTableName"]
    pages = client.get_paginator("scan").paginate(TableName=table)
    return {int(record["step"]["N"]): record for page in pages for record in page["Items"]}


def request_id(deployment: Deployment) -> str:
    """Return the id of the request that deleted checkpoints of the model, once it is logged."""
    logs = deployment.cloud.client("logs")
    for _ in range(100):
        for event in read_events(logs, deployment.outputs["ApiFunctionLogGroupName"]):
            if f'"model_id":"{MODEL}"' in event["message"]:
                line: dict[str, str] = json.loads(event["message"])
                return line["function_request_id"]
        time.sleep(0.1)
    raise AssertionError("the request is not in the log")


def test_restores_five_thousand_checkpoints_by_the_id_of_the_request(
    deployment: Deployment, send: Send
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
        assert 5_000 == send(list(range(5_000)), model_id=MODEL).body["deleted_count"]
        arguments = ["--from", RESTORED, "--request", request_id(deployment)]

        process = run_checkpoints(deployment, "restore", *arguments)

        assert (0, "") == (process.returncode, process.stderr.partition("\n")[2])
        assert process.stdout == (
            f"Model: '{MODEL}'\nFrom: {RESTORED}\nTo: {table}\n  Restored: 5,000 (0-4999)\n"
        )
        assert before == all_records(deployment)
    finally:
        client.delete_table(TableName=RESTORED)


def test_a_good_stack_passes_the_smoke_test(deployment: Deployment) -> None:
    process = run_checkpoints(deployment, "smoke", "--url", deployment.outputs["ApiUrl"])

    assert (0, "") == (process.returncode, process.stderr), process.stdout
    assert process.stdout.endswith("\n11 checks passed, 0 failed.\n")
    assert {} == all_records(deployment)
