"""`make serve` prints commands to paste, and what the functions do, until it is stopped."""

import re
import signal
import subprocess
import time

from emulators.aws import ROOT
from processes import running


def test_goes_from_a_bucket_to_a_pruned_model_and_leaves_nothing_running() -> None:
    with running("serve.py") as command:
        command.read_until("Below is one line for each request")
        printed = "\n".join(command.lines)
        exports = re.findall(r"^  (export .*)$", printed, re.MULTILINE)
        of_project = re.findall(r"^  (\.venv/(?:.*\\\n)*.*)$", printed, re.MULTILINE)
        (curl,) = re.findall(r"^  (curl .*\\\n.*)$", printed, re.MULTILINE)
        records_import, summary, prune, deletions, tokens = of_project
        time.sleep(1)  # objects that were saved in the second of the deletion are kept
        script = [
            *(f"{records_import} --yes", summary, f"{prune} --yes", f"{curl} --silent"),
            *(deletions, tokens),
        ]
        done = subprocess.run(
            ["bash", "-e"],  # noqa: S607 it has another place on each system
            input="\n".join([*exports, *script]),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert 0 == done.returncode, done.stderr
        freed = [command.read_until("Storage freed") for _ in range(6)]

        command.stop(signal.SIGHUP)

    for line in (
        "To register for the entity 'vision-team': 11 (25.2 MB).",
        "To delete: 5 (13.5 MB), at steps 500, 1000, 1500, 2000, 3000.",
        "Deleted: 5. Kept: 3.",
        '{"deleted_count":1,"not_found_steps":[999]}',
        "  Deleted: 5 (500,1000,1500,2000,3000)",
    ):
        assert line in done.stdout.splitlines()
    assert {
        f"Storage freed: deleted {objects} objects  vision-team/{model}/{step}\n"
        for model, objects, steps in (
            ("llama-sft", 4, (500, 1000, 1500, 2000, 3000)),
            ("vit-base", 1, (200,)),
        )
        for step in steps
    } == {line[10:] for line in freed}
