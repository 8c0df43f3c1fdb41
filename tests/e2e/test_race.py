"""Callers race, from several processes, and each record is counted once."""

import json
import subprocess
import sys

from deployment import Deployment

CALLERS = 20
PROCESSES = 4

CALLER = """
import concurrent.futures, json, random, requests, sys
url, token, callers = sys.argv[1], sys.argv[2], int(sys.argv[3])

def delete(_):
    steps = random.sample(range(600), 250)
    headers = {"Authorization": f"Bearer {token}"}
    response = requests.delete(url, json={"steps": steps}, headers=headers, timeout=60)
    return response.status_code, response.json()

with concurrent.futures.ThreadPoolExecutor(callers) as pool:
    print(json.dumps(list(pool.map(delete, range(callers)))))
"""


def test_each_record_is_counted_by_exactly_one_request(deployment: Deployment, token: str) -> None:
    deployment.put_checkpoints(range(600))
    command = [
        *(sys.executable, "-c", CALLER),
        *(deployment.url(), token, str(CALLERS // PROCESSES)),
    ]

    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: S603 it is ours
        for _ in range(PROCESSES)
    ]
    responses = [
        response for process in processes for response in json.loads(process.communicate()[0])
    ]

    assert [200] * CALLERS == [status for status, _ in responses]
    for _, body in responses:
        assert 250 == body["deleted_count"] + len(body["not_found_steps"])
    gone = set(range(600)) - deployment.stored_steps()
    assert len(gone) == sum(body["deleted_count"] for _, body in responses)
