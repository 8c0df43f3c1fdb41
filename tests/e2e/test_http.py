"""Behaviour that is the same for every request, over HTTP."""

import json
import os
import subprocess
import sys

import pytest
import requests

from checkpoints.api.auth import READ_SCOPE
from deployment import Deployment, Send
from emulators import STACK
from events import Response
from scripts import tokens


def status_and_body(response: Response) -> tuple[int, object]:
    return response.status, response.body


def tokens_script(deployment: Deployment, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 it is ours
        [sys.executable, tokens.__file__, *arguments, "--stack", STACK],
        env=os.environ | deployment.cloud.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_deletes_what_exists_and_reports_what_does_not(deployment: Deployment, send: Send) -> None:
    deployment.put_checkpoints(range(5))

    response = send([3, 1, 99])

    assert (200, {"deleted_count": 2, "not_found_steps": [99]}) == status_and_body(response)
    assert "application/json" == response.headers["Content-Type"]
    assert {0, 2, 4} == deployment.stored_steps()


def test_lists_page_by_page(deployment: Deployment, send: Send) -> None:
    deployment.put_checkpoints(range(5), metrics={"M": {"loss": {"N": "0.5"}}})

    response = send(method="GET", url=f"{deployment.url()}?order=desc&limit=9&limit=2&after=4")

    page = {
        "object": "list",
        "data": [
            {"id": "3", "step": 3, "metrics": {"loss": 0.5}},
            {"id": "2", "step": 2, "metrics": {"loss": 0.5}},
        ],
        "first_id": "3",
        "last_id": "2",
        "has_more": True,
    }
    assert (200, page) == status_and_body(response)
    assert "application/json" == response.headers["Content-Type"]


@pytest.mark.parametrize("query", ["?limit", "?limit=", "?limit=5&limit=101", "?limit=%2B5"])
def test_refuses_an_invalid_query(deployment: Deployment, send: Send, query: str) -> None:
    response = send(method="GET", url=deployment.url() + query)

    assert (422, ["query", "limit"]) == (response.status, response.body["detail"][0]["loc"])


@pytest.mark.parametrize(
    ("query", "more"),
    [("?dry_run=true", ""), ("?dry_run=true&dry_run=false", ""), ("", ', "dry_run": true')],
    ids=["in the query", "in the query once of twice", "in the body"],
)
def test_a_dry_run_reports_what_the_deletion_then_does(
    deployment: Deployment, send: Send, query: str, more: str
) -> None:
    deployment.put_checkpoints(range(5))

    response = send(url=deployment.url() + query, data=f'{{"steps": [3, 1, 99]{more}}}')

    expected = {"deleted_count": 2, "not_found_steps": [99]}
    assert (200, expected | {"dry_run": True}) == status_and_body(response)
    assert set(range(5)) == deployment.stored_steps()
    assert (200, expected) == status_and_body(send([3, 1, 99]))


@pytest.mark.parametrize(
    "query", ["?dry_run", "?dry_run=", "?dry_run=1", "?dry_run=no&dry_run=true"]
)
def test_deletes_nothing_if_dry_run_is_not_a_boolean(
    deployment: Deployment, send: Send, query: str
) -> None:
    deployment.put_checkpoints(range(2))

    response = send([1], url=deployment.url() + query)

    error = {
        "loc": ["query", "dry_run"],
        "msg": "Input should be true or false",
        "type": "bool_parsing",
    }
    assert (422, {"detail": [error]}) == status_and_body(response)
    assert {0, 1} == deployment.stored_steps()


@pytest.mark.parametrize(
    ("query", "name"),
    [("?dryRun=true", "dryRun"), ("?dry_run[]=true", "dry_run[]"), ("?dry%2Drun", "dry-run")],
)
def test_deletes_nothing_if_dry_run_is_misspelled(
    deployment: Deployment, send: Send, query: str, name: str
) -> None:
    deployment.put_checkpoints(range(2))

    response = send([1], url=deployment.url() + query)

    error = {
        "loc": ["query", name],
        "msg": "The name should be spelled dry_run",
        "type": "misspelled_name",
    }
    assert (422, {"detail": [error]}) == status_and_body(response)
    assert {0, 1} == deployment.stored_steps()


@pytest.mark.parametrize(
    ("headers", "detail", "challenge"),
    [
        ({}, "Not authenticated", ""),
        ({"Authorization": ""}, "Not authenticated", ""),
        ({"Authorization": "Bearer"}, "Not authenticated", ""),
        ({"Authorization": "Basic eDp5"}, "Not authenticated", ""),
        ({"Authorization": 'Bearer "x"'}, "Not authenticated", ""),
        (
            {"authorization": "BEARER x"},
            "Invalid or expired token",
            ', error="invalid_token"',
        ),
        (
            {"Authorization": f"Bearer {'x' * 5_000}"},
            "Invalid or expired token",
            ', error="invalid_token"',
        ),
    ],
    ids=["absent", "empty", "scheme alone", "another scheme", "quoted", "unknown", "long"],
)
@pytest.mark.parametrize("data", ['{"steps": [1]}', "not JSON"])
def test_refuses_an_unknown_caller(
    send: Send, headers: dict[str, str], detail: str, challenge: str, data: str
) -> None:
    response = send(headers=headers, data=data)

    assert (401, {"detail": detail}) == status_and_body(response)
    assert f'Bearer realm="checkpoints"{challenge}' == response.headers["WWW-Authenticate"]


def test_refuses_a_token_without_the_scope(deployment: Deployment, send: Send) -> None:
    token = deployment.issue_token("reader", scopes=[READ_SCOPE])

    response = send([1], token=token)

    assert (403, {"detail": "The token lacks the scope checkpoints:delete"}) == status_and_body(
        response
    )


def test_leaves_the_checkpoints_of_others_alone(deployment: Deployment, send: Send) -> None:
    deployment.put_checkpoints(range(150))
    token = deployment.issue_token("other", entity="speech-team")

    for count in (3, 150):
        response = send(list(range(count)), token=token)

        expected = {"deleted_count": 0, "not_found_steps": list(range(count))}
        assert (200, expected) == status_and_body(response)
    assert set(range(150)) == deployment.stored_steps()


def test_a_token_revoked_between_two_requests_is_refused(
    deployment: Deployment, send: Send
) -> None:
    deployment.put_checkpoints(range(2))
    token = deployment.issue_token("short-lived")
    assert 200 == send([0], token=token).status

    revoked = tokens_script(deployment, "revoke", "short-lived")

    assert 0 == revoked.returncode, revoked.stderr
    assert 401 == send([1], token=token).status
    assert {1} == deployment.stored_steps()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not JSON",
        b"\xff\xfe",
        b"[]",
        b'{"steps": [true]}',
        b'{"steps": [1.0]}',
        b"[" * 10_000,
    ],
    ids=["absent", "text", "not UTF-8", "array", "boolean", "fraction", "deep"],
)
def test_refuses_an_invalid_body(send: Send, data: bytes) -> None:
    response = send(data=data)

    assert 422 == response.status
    for error in response.body["detail"]:
        assert {"loc", "msg", "type"} == set(error)


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


@pytest.mark.parametrize("model_id", ["a b", "été", "a+b", "100%", "模型", "a&b=c;d"])
def test_decodes_the_model_id_correctly(deployment: Deployment, send: Send, model_id: str) -> None:
    """Without what the local gateway, unlike a REST API, decodes before it routes: `%2F`, `%25`."""
    deployment.put_checkpoints(range(2), model_id=model_id)

    response = send([1, 2], model_id=model_id)

    assert (200, {"deleted_count": 1, "not_found_steps": [2]}) == status_and_body(response)
    assert {0} == deployment.stored_steps(model_id)


def test_deletes_thousands(deployment: Deployment, send: Send) -> None:
    deployment.put_checkpoints(range(5_010))

    response = send([*range(5_000), 9_999])

    assert (200, {"deleted_count": 5_000, "not_found_steps": [9_999]}) == status_and_body(response)
    assert set(range(5_000, 5_010)) == deployment.stored_steps()


def test_takes_a_body_near_lambdas_limit(deployment: Deployment, send: Send) -> None:
    steps = list(range(10**6, 10**6 + 700_000))
    deployment.put_checkpoints(range(steps[0], steps[0] + 2))
    body = json.dumps({"steps": steps}, separators=(",", ":"))
    assert 5_500_000 < len(body) < 6_000_000

    response = send(data=body)

    assert (200, {"deleted_count": 2, "not_found_steps": steps[2:]}) == status_and_body(response)


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_lists_in_pages_of_one(deployment: Deployment, token: str, order: str) -> None:
    deployment.put_checkpoints(range(250))
    listed: list[int] = []
    query = {"limit": "1", "order": order}
    has_more = True
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {token}"
        while has_more:
            page = session.get(deployment.url(), params=query, timeout=30).json()
            listed += [checkpoint["step"] for checkpoint in page["data"]]
            query["after"], has_more = page["last_id"], page["has_more"]
            assert len(listed) <= 250

    assert sorted(range(250), reverse=order == "desc") == listed


def test_keeps_a_connection_alive(deployment: Deployment, token: str) -> None:
    deployment.put_checkpoints(range(3))
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {token}"
        counts = [
            session.delete(deployment.url(), json={"steps": [step]}, timeout=30).json()
            for step in range(3)
        ]

    assert [{"deleted_count": 1, "not_found_steps": []}] * 3 == counts


def test_an_update_in_place_keeps_the_data(deployment: Deployment, send: Send) -> None:
    deployment.put_checkpoints(range(2))

    outputs = deployment.cloud.deploy(
        DynamoDBEndpoint=deployment.endpoint.url, ThrottlingRateLimit="60"
    )

    assert deployment.outputs == outputs
    assert {0, 1} == deployment.stored_steps()
    assert (200, {"deleted_count": 2, "not_found_steps": []}) == status_and_body(send([0, 1]))
