"""Callers race, and each record is counted once, or is protected from all of them."""

from concurrent.futures import ThreadPoolExecutor

from deployment import Deployment, Send

CALLERS = 12
STEPS = 600
PROTECTED = range(0, STEPS, 30)


def test_each_record_is_deleted_by_exactly_one_request_or_is_protected(
    deployment: Deployment, send: Send
) -> None:
    deployment.put_checkpoints(range(STEPS))
    deployment.put_checkpoints(PROTECTED, protected={"BOOL": True})
    # Each checkpoint is in the requests of five callers.
    wanted = [[(50 * caller + i) % STEPS for i in range(250)] for caller in range(CALLERS)]

    with ThreadPoolExecutor(CALLERS) as pool:
        responses = list(pool.map(send, wanted))

    assert [200] * CALLERS == [response.status for response in responses]
    bodies = [response.body for response in responses]
    assert [250] * CALLERS == [
        each["deleted_count"] + len(each["not_found_steps"]) + len(each["protected_steps"])
        for each in bodies
    ]
    assert [[step for step in steps if step in PROTECTED] for steps in wanted] == [
        each["protected_steps"] for each in bodies
    ]
    assert STEPS - len(PROTECTED) == sum(body["deleted_count"] for body in bodies)
    assert set(PROTECTED) == deployment.stored_steps()
