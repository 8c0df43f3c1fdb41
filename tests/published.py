"""Read responses, and check each one against docs/openapi.json.

All tests get their responses through this module. So if a status, a header or a field is not
declared, the tests that receive it fail.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from jsonschema import Draft202012Validator

from events import Response

DOCUMENT = json.loads((Path(__file__).parents[1] / "docs" / "openapi.json").read_bytes())
(RESOURCE,) = DOCUMENT["paths"]

GATEWAY_HEADERS = {"content-length", "date", "x-amz-request-id", "x-amzn-requestid"}
MAX_CHECKED_SIZE = 1_000_000  # characters: the check of several million would take a minute


def schema(name: str) -> dict[str, Any]:
    """Return a schema of the document, with those it refers to."""
    return {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}


def read_response(event: Any, response: Mapping[str, Any]) -> Response:
    """Read the function's response to an event. Fail if API Gateway would not accept it."""
    assert set(response) == {"statusCode", "body", "isBase64Encoded", "multiValueHeaders"}
    assert response["isBase64Encoded"] is False
    headers = {}
    for name, values in response["multiValueHeaders"].items():
        (headers[name],) = values
    body, size = json.loads(response["body"]), len(json.dumps(response))
    route = event if isinstance(event, dict) else {}  # some tests send what no gateway sends
    return _checked(
        Response(response["statusCode"], headers, body, size),
        route.get("resource"),
        route.get("httpMethod"),
    )


def read_http_response(response: requests.Response) -> Response:
    """Read a response of the deployed API.

    API Gateway's own responses, such as 429, are not in the document. No test gets one.
    """
    headers = {
        name: value
        for name, value in response.headers.items()
        if name.lower() not in GATEWAY_HEADERS
    }
    path = urlsplit(response.request.url or "").path
    is_known = re.search(re.sub("{.*}", "[^/]+", RESOURCE) + "$", path)
    return _checked(
        Response(response.status_code, headers, response.json()),
        RESOURCE if is_known else None,
        response.request.method,
    )


def _checked(response: Response, resource: str | None, method: str | None) -> Response:
    """Return the response, if the document declares it with exactly these headers and fields."""
    status, names = str(response.status), set(response.headers)
    responses = _CLOSED["paths"][RESOURCE]["get"]["responses"]
    if resource == RESOURCE and (method or "").lower() in _CLOSED["paths"][RESOURCE]:
        responses = _CLOSED["paths"][RESOURCE][(method or "").lower()]["responses"]
    elif status not in ("404", "500"):  # unknown routes, and what is no event of this API
        responses = {}
    assert status in responses, f"docs/openapi.json does not declare {status} for {method}"
    headers = responses[status].get("headers", {})
    assert {"Content-Type", *headers} == names, "docs/openapi.json declares other headers"
    for name, header in headers.items():
        is_number = header["schema"]["type"] == "integer"
        value = response.headers[name]
        _validate(json.loads(value) if is_number else value, header["schema"])
    content = responses[status]["content"][response.headers["Content-Type"]]
    if response.size <= MAX_CHECKED_SIZE:
        _validate(response.body, content["schema"])
    return response


def _validate(value: Any, schema: dict[str, Any]) -> None:
    Draft202012Validator(schema | {"components": _CLOSED["components"]}).validate(value)


def _close(document: Any) -> Any:
    """Forbid undeclared fields: `additionalProperties` is true if a schema does not have it."""
    if isinstance(document, list):
        return [_close(each) for each in document]
    if not isinstance(document, dict):
        return document
    closed = {"additionalProperties": False} if "properties" in document else {}
    return closed | {key: _close(value) for key, value in document.items()}


_CLOSED = _close(DOCUMENT)
