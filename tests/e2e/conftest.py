"""The stack, deployed to a local AWS emulator that enforces the permissions of its roles."""

from collections.abc import Iterator

import pytest
import requests

from checkpoints.api.auth import DELETE_SCOPE, READ_SCOPE
from deployment import Deployment, Send
from emulators.aws import aws_emulator, build
from emulators.records import ARTIFACTS_BUCKET
from events import MODEL, Response
from faulty_dynamodb import Endpoint
from published import read_http_response


@pytest.fixture(scope="session")
def deployment() -> Iterator[Deployment]:
    """Build and deploy, the endpoint between the function and its tables."""
    build()
    with (
        aws_emulator(enforce_iam=True) as emulator,
        Endpoint(emulator.endpoint).running() as endpoint,
    ):
        emulator.client("s3").create_bucket(Bucket=ARTIFACTS_BUCKET)
        outputs = emulator.deploy(
            DynamoDBEndpoint=endpoint.url,
            ArtifactsBucket=ARTIFACTS_BUCKET,
            ReclaimDelaySeconds="0",
        )
        yield Deployment(emulator, endpoint, outputs)


@pytest.fixture(scope="session")
def token(deployment: Deployment) -> str:
    """Return a token that may list and delete."""
    return deployment.issue_token("good", scopes=[READ_SCOPE, DELETE_SCOPE])


@pytest.fixture
def send(deployment: Deployment, token: str) -> Send:
    """Send a request over HTTP. It is valid by default; arguments change parts of it."""

    def send(
        steps: list[int] | None = None,
        *,
        model_id: str = MODEL,
        token: str = token,
        url: str | None = None,
        method: str = "DELETE",
    ) -> Response:
        response = requests.request(
            method,
            url or deployment.url(model_id),
            json={"steps": steps},
            headers={"Authorization": f"Bearer {token}"},
            timeout=60,
        )
        return read_http_response(response)

    return send


@pytest.fixture(autouse=True)
def _fresh_tables(deployment: Deployment) -> None:
    """Start with no checkpoints, and an endpoint without faults."""
    deployment.endpoint.heal()
    table = deployment.outputs["CheckpointsTableName"]
    client = deployment.cloud.client("dynamodb")
    for page in client.get_paginator("scan").paginate(TableName=table):
        for record in page["Items"]:
            key = {name: record[name] for name in ("model_id", "step")}
            client.delete_item(TableName=table, Key=key)
