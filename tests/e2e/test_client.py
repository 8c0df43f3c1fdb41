"""The API works with the client library that its public clients are built on."""

import asyncio
from typing import Any

import openai
import pytest
from openai.pagination import AsyncCursorPage

from checkpoints.dynamodb import MAX_ATTEMPTS
from deployment import Deployment
from events import MODEL
from faulty_dynamodb import reject


class Deletion(openai.BaseModel):
    """The response, as a client would declare it."""

    deleted_count: int
    not_found_steps: list[int]
    dry_run: bool = False


class Checkpoint(openai.BaseModel):
    """An element of the list, as a client would declare it."""

    id: str
    step: int
    metrics: dict[str, float]


def delete(
    deployment: Deployment,
    token: str,
    steps: list[int],
    retries: int = 2,
    **query: bool,
) -> Deletion:
    api = f"{deployment.outputs['ApiUrl']}/v1"
    with openai.OpenAI(base_url=api, api_key=token, max_retries=retries) as client:
        return client.delete(
            f"/preview/models/{MODEL}/checkpoints",
            body={"steps": steps},
            options={"params": query},
            cast_to=Deletion,
        )


def test_the_sdk_repeats_what_was_not_finished(deployment: Deployment, token: str) -> None:
    """The function gives up twice, and then succeeds."""
    deployment.put_checkpoints(range(3))
    faults = [reject(500, "InternalServerError")] * MAX_ATTEMPTS
    deployment.endpoint.fail("GetItem", *faults, *faults)

    with pytest.raises(openai.InternalServerError) as failure:
        delete(deployment, token, [0, 1, 2], retries=0)

    response = failure.value.response
    assert (503, "2") == (response.status_code, response.headers["Retry-After"])
    assert Deletion(deleted_count=3, not_found_steps=[]) == delete(deployment, token, [0, 1, 2])
    assert 2 * MAX_ATTEMPTS + 1 == deployment.endpoint.calls.count("GetItem")


@pytest.mark.parametrize(
    ("query", "requests"), [({}, 13), ({"limit": 100}, 3), ({"limit": 1, "order": "desc"}, 250)]
)
def test_lists_everything_and_deletes_all_but_two(
    deployment: Deployment, token: str, query: dict[str, Any], requests: int
) -> None:
    """The whole clean-up that clients do, next to the checkpoints of another entity."""
    steps, others = range(-500, 2_000, 10), range(-495, 2_000, 100)
    metrics = {"M": {"loss": {"N": "0.125"}, "epoch": {"N": "3"}}}
    deployment.put_checkpoints(steps, metrics=metrics)
    deployment.put_checkpoints(others, entity="speech-team")

    listed = asyncio.run(list_all(deployment, token, query))

    expected = reversed(steps) if query.get("order") == "desc" else steps
    assert [
        Checkpoint(id=str(step), step=step, metrics={"loss": 0.125, "epoch": 3})
        for step in expected
    ] == listed
    assert requests == deployment.endpoint.calls.count("GetItem")

    kept = {-500, 1_990}
    gone = [checkpoint.step for checkpoint in listed if checkpoint.step not in kept]
    deletion = Deletion(deleted_count=248, not_found_steps=list(others))
    dry_run = delete(deployment, token, [*gone, *others], dry_run=True)
    assert deletion.model_copy(update={"dry_run": True}) == dry_run
    assert {*steps, *others} == deployment.stored_steps()
    assert deletion == delete(deployment, token, [*gone, *others])
    assert kept | set(others) == deployment.stored_steps()


async def list_all(deployment: Deployment, token: str, query: dict[str, Any]) -> list[Checkpoint]:
    api = f"{deployment.outputs['ApiUrl']}/v1"
    async with openai.AsyncOpenAI(base_url=api, api_key=token) as client:
        pages = client.get_api_list(
            f"/preview/models/{MODEL}/checkpoints",
            page=AsyncCursorPage[Checkpoint],
            model=Checkpoint,
            options={"params": query},
        )
        return [checkpoint async for checkpoint in pages]
