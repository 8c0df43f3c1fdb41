"""The function in a separate process.

It reads events from standard input, and prints the responses on the last line. Run this file to be
that process, or call `run_in_a_process` to start it.
"""

import json
import logging
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from emulators.invocation import lambda_context

if TYPE_CHECKING:  # these are slow to import, and only the tests' own process needs them
    from events import Response
    from faulty_dynamodb import Endpoint


@dataclass(frozen=True)
class Outcome:
    """The responses of a process, its output and log, and its memory usage."""

    responses: list["Response"]
    log: str
    peak_megabytes: int


def run_in_a_process(
    endpoint: "Endpoint",
    events: Sequence[object],
    *,
    without: Sequence[str] = (),
    **environment: str,
) -> Outcome:
    """Start a function with this environment, and send events to it."""
    from published import read_response  # noqa: PLC0415 see above

    process = subprocess.run(  # noqa: S603 it is this file
        [sys.executable, __file__],
        input=json.dumps(events),
        env={key: value for key, value in os.environ.items() if key not in without}
        | {
            "AWS_ENDPOINT_URL_DYNAMODB": endpoint.url,
            "PYTHONWARNINGS": "error",
        }
        | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert process.returncode == 0, process.stderr
    *log, last = process.stdout.splitlines()
    responses, peak = json.loads(last)
    return Outcome(
        [read_response(*each) for each in zip(events, responses, strict=True)],
        "\n".join(log) + process.stderr,
        peak // 1024,
    )


def main() -> None:
    """Handle all events, and log at level DEBUG, as Lambda can."""
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
    from checkpoints.api.app import lambda_handler  # noqa: PLC0415 logs from its import on

    responses = [lambda_handler(event, lambda_context()) for event in json.load(sys.stdin)]
    sys.stdout.write(json.dumps([responses, peak_kilobytes()]))


def peak_kilobytes() -> int:
    """Return the peak memory of this process, without that of its parent."""
    status = Path("/proc/self/status")
    if not status.exists():  # then it is not Linux, where the other way counts both
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1])


if __name__ == "__main__":
    main()
