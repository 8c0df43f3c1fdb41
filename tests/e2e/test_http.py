"""What the gateway passes on, and what a deployed stack keeps between two requests."""

import pytest

from deployment import Deployment, Send, run_checkpoints
from events import Response


def status_and_body(response: Response) -> tuple[int, object]:
    return response.status, response.body


@pytest.mark.parametrize(
    ("method", "query", "name"),
    [
        ("GET", "?limit", "limit"),
        ("GET", "?limit=%2B5", "limit"),
        ("DELETE", "?dry_run=no&dry_run=true", "dry_run"),
        ("DELETE", "?dry_run[]=true", "dry_run[]"),
        ("DELETE", "?dry%2Drun", "dry-run"),
    ],
)
def test_refuses_an_invalid_query(
    deployment: Deployment, send: Send, method: str, query: str, name: str
) -> None:
    deployment.put_checkpoints(range(2))

    response = send([1], method=method, url=deployment.url() + query)

    places = [error["loc"] for error in response.body["detail"]]
    assert (422, [["query", name]]) == (response.status, places)
    assert {0, 1} == deployment.stored_steps()


def test_a_token_revoked_between_two_requests_is_refused(
    deployment: Deployment, send: Send
) -> None:
    deployment.put_checkpoints(range(2))
    token = deployment.issue_token("short-lived")
    assert 200 == send([0], token=token).status

    revoked = run_checkpoints(deployment, "tokens", "revoke", "short-lived")

    assert 0 == revoked.returncode, revoked.stderr
    assert 401 == send([1], token=token).status
    assert {1} == deployment.stored_steps()


def test_rejects_other_methods_and_other_paths(deployment: Deployment, send: Send) -> None:
    api = deployment.outputs["ApiUrl"]

    for method, url in (
        ("POST", deployment.url()),
        ("DELETE", f"{api}/v1/preview/models/m"),
        ("GET", f"{api}/v2"),
        ("PUT", f"{api}/"),
        ("DELETE", deployment.url().replace("/v1/", "/ml/v1/")),
    ):
        response = send([1], method=method, url=url)
        assert (404, {"detail": "Not Found"}) == status_and_body(response)
    assert [] == deployment.endpoint.calls


@pytest.mark.parametrize(
    "model_id", ["a b", "été", "a+b", "100%", "模型", "a&b=c;d", "a/b", "a%2Fb", "a%252Fb"]
)
def test_decodes_the_model_id_correctly(deployment: Deployment, send: Send, model_id: str) -> None:
    deployment.put_checkpoints(range(2), model_id=model_id)

    response = send([1, 2], model_id=model_id)

    assert (200, {"deleted_count": 1, "not_found_steps": [2]}) == status_and_body(response)
    assert {0} == deployment.stored_steps(model_id)


def test_an_update_in_place_keeps_the_data(deployment: Deployment, send: Send) -> None:
    deployment.put_checkpoints(range(2))

    outputs = deployment.cloud.deploy(
        DynamoDBEndpoint=deployment.endpoint.url, ThrottlingRateLimit="60"
    )

    assert deployment.outputs == outputs
    assert {0, 1} == deployment.stored_steps()
    assert (200, {"deleted_count": 2, "not_found_steps": []}) == status_and_body(send([0, 1]))
