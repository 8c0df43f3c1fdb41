"""Callers race, and each record is counted once."""

from concurrent.futures import ThreadPoolExecutor

from deployment import Deployment, Send

CALLERS = 12
STEPS = 600


def test_each_record_is_counted_by_exactly_one_request(deployment: Deployment, send: Send) -> None:
    deployment.put_checkpoints(range(STEPS))
    # Each checkpoint is in the requests of five callers.
    wanted = [[(50 * caller + i) % STEPS for i in range(250)] for caller in range(CALLERS)]

    with ThreadPoolExecutor(CALLERS) as pool:
        responses = list(pool.map(send, wanted))

    assert [200] * CALLERS == [response.status for response in responses]
    bodies = [response.body for response in responses]
    assert [250] * CALLERS == [
        each["deleted_count"] + len(each["not_found_steps"]) for each in bodies
    ]
    assert STEPS == sum(body["deleted_count"] for body in bodies)
    assert set() == deployment.stored_steps()
