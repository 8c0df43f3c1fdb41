"""A stack with an existing checkpoints table uses it, and keeps it when it is deleted."""

import dataclasses

from cli.template import read_template
from deployment import Deployment, Send

STACK = "second"
TABLE = "platform-checkpoints"


def test_deletes_from_a_table_that_exists_already(deployment: Deployment, send: Send) -> None:
    dynamodb = deployment.cloud.client("dynamodb")
    properties = read_template()["Resources"]["CheckpointsTable"]["Properties"]
    keys = {name: properties[name] for name in ("AttributeDefinitions", "KeySchema", "BillingMode")}
    dynamodb.create_table(TableName=TABLE, **keys)
    outputs = deployment.cloud.deploy(STACK, ExistingCheckpointsTable=TABLE)
    second = dataclasses.replace(deployment, outputs=outputs)
    second.put_checkpoints(range(300))

    response = send([*range(250), 999], url=second.url(), token=second.issue_token("second"))

    assert TABLE == outputs["CheckpointsTableName"]
    assert (200, {"deleted_count": 250, "not_found_steps": [999]}) == (
        response.status,
        response.body,
    )
    assert set(range(250, 300)) == second.stored_steps()

    cloudformation = deployment.cloud.client("cloudformation")
    cloudformation.delete_stack(StackName=STACK)
    cloudformation.get_waiter("stack_delete_complete").wait(StackName=STACK)

    assert set(range(250, 300)) == second.stored_steps()
