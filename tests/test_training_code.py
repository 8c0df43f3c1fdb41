"""The Python code in docs/records.md works as a training job would run it."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import boto3
import pytest
from markdown_it import MarkdownIt

from checkpoints.api.auth import READ_SCOPE
from docs import RECORDS
from emulators.dynamodb import put_token
from events import Call

ENTITY, MODEL, BUCKET = "vision-team", "resnet-50", "my-weights"  # as on the page
READER = "reader"
NOW = 1_767_225_600


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Run the blocks of code one after the other, and return what they define."""
    put_token(READER, entity=ENTITY, scopes=[READ_SCOPE])
    transformers = ModuleType("transformers")
    transformers.TrainerCallback = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "transformers", transformers)
    blocks = [token for token in MarkdownIt().parse(RECORDS.read_text()) if token.info == "python"]
    defined: dict[str, Any] = {}
    with mock.patch.object(time, "time", return_value=NOW):
        for block in blocks:
            exec(block.content, defined)  # noqa: S102 it is ours
        yield defined


def listed(call: Call) -> list[dict[str, Any]]:
    data: list[dict[str, Any]] = call(method="GET", model_id=MODEL, token=READER).body["data"]
    return data


def test_registers_a_checkpoint_and_lets_it_expire(page: dict[str, Any], call: Call) -> None:
    first = {
        "id": "100",
        "step": 100,
        "metrics": {"loss": 0.25, "accuracy": 0.91},
        "size_bytes": 45_000_000,
        "created_at": NOW,
        "expires_at": NOW + 30 * 24 * 60 * 60,
    }
    assert [first] == listed(call)

    page["expire"](MODEL, 100, days=60)
    values = {"a": 1, "b": -0.0, "c": float("inf"), "d": 1e300, "e": 5e-324, "f": "x", "g": 1e-7}
    page["register"](ENTITY, MODEL, 200, "s3://my-weights/x/", 0, values)

    extended, second = listed(call)
    assert first | {"expires_at": NOW + 60 * 24 * 60 * 60} == extended
    assert {"a": 1, "b": 0, "g": 1e-7} == second["metrics"]


def test_lets_no_protected_or_deleted_checkpoint_expire(page: dict[str, Any], call: Call) -> None:
    page["table"].update_item(
        Key={"model_id": MODEL, "step": 100},
        UpdateExpression="SET protected = :true REMOVE expires_at",
        ExpressionAttributeValues={":true": True},
    )

    for step in (100, 999):
        with pytest.raises(page["table"].meta.client.exceptions.ConditionalCheckFailedException):
            page["expire"](MODEL, step, days=1)

    (found,) = listed(call)
    assert (True, False) == (found["protected"], "expires_at" in found)


def test_the_callback_uploads_a_checkpoint_and_registers_it(
    page: dict[str, Any], call: Call, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoint-500"
    for name, content in (("model.safetensors", "12345"), ("global_step500/a b.pt", "678")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    history = [
        {"loss": 0.5, "grad_norm": float("nan"), "epoch": 1.0, "step": 400},
        {"loss": 0.4, "grad_norm": float("nan"), "epoch": 2.0, "step": 500},
        {"eval_loss": 0.45, "epoch": 2.0, "step": 500},
    ]
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket=BUCKET)
    callback = page["RegisterCheckpoints"](ENTITY, MODEL, BUCKET)
    try:
        for is_main in (True, False):  # the other processes of a distributed job do nothing
            callback.on_save(
                SimpleNamespace(output_dir=str(tmp_path)),
                SimpleNamespace(
                    is_world_process_zero=is_main,
                    global_step=500 if is_main else 600,
                    log_history=history,
                ),
                None,
                model=None,
            )
        objects = s3.list_objects_v2(Bucket=BUCKET)["Contents"]
    finally:
        for each in s3.list_objects_v2(Bucket=BUCKET).get("Contents", []):
            s3.delete_object(Bucket=BUCKET, Key=each["Key"])
        s3.delete_bucket(Bucket=BUCKET)

    _, second = listed(call)
    prefix = f"{MODEL}/checkpoint-500/"
    assert [prefix + "global_step500/a b.pt", prefix + "model.safetensors"] == [
        each["Key"] for each in objects
    ]
    assert {
        "id": "500",
        "step": 500,
        "metrics": {"loss": 0.4, "epoch": 2, "eval_loss": 0.45},
        "size_bytes": 8,
        "created_at": NOW,
    } == second
    stored = boto3.client("dynamodb").get_item(
        TableName=os.environ["CHECKPOINTS_TABLE"],
        Key={"model_id": {"S": MODEL}, "step": {"N": "500"}},
    )
    assert {"S": f"s3://{BUCKET}/{prefix}"} == stored["Item"]["artifact_uri"]
