"""`make serve` prints what the function does until it is stopped."""

import re
import signal
import subprocess
import time

from processes import running


def test_shows_a_line_for_each_request_and_leaves_nothing_running() -> None:
    with running("serve.py") as command:
        command.read_until("Below is one line for each request")
        printed = "\n".join(command.lines)
        exports = re.findall(r"^  (export (?:API_URL|TOKEN)=.*)$", printed, re.MULTILINE)
        (curl,) = re.findall(r"^  (curl .*\\\n.*)$", printed, re.MULTILINE)
        time.sleep(1)  # objects that were saved in the second of the deletion are kept
        response = subprocess.run(
            ["bash", "-e"],  # noqa: S607 it has another place on each system
            input="\n".join([*exports, f"{curl} --silent"]),
            capture_output=True,
            text=True,
            check=True,
        )
        line = command.read_until("resnet-50")
        freed = [command.read_until("Storage freed") for _ in range(2)]

        command.stop(signal.SIGHUP)

    assert '{"deleted_count":2,"not_found_steps":[999]}\n' == response.stdout
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d  200  [ \d,]{5} ms  deleted 2, not found 1  vision-team/resnet-50\n",
        line,
    )
    assert {
        f"Storage freed: deleted 3 objects  vision-team/resnet-50/{step}\n" for step in (100, 200)
    } == {line[10:] for line in freed}
