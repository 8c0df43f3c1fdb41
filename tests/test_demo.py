"""The demo shows the whole product, and the README shows the demo."""

import re
import subprocess
import sys

from docs import README
from emulators.aws import ROOT


def test_goes_from_a_bucket_to_a_pruned_model_and_the_readme_shows_its_lines() -> None:
    shown = subprocess.run(  # noqa: S603 it is ours
        [sys.executable, "-W", "error", ROOT / "scripts" / "demo.py"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert 0 == shown.returncode, shown.stderr
    assert shown.stderr.startswith("Reading the whole table")
    lines = [line.rstrip() for line in shown.stdout.splitlines()]
    for line in (
        "s3://training-artifacts/llama-sft/  32 objects",
        "llama-sft    8  21.6 MB  500 to 4000  checkpoint-N/           0         0",
        "vit-base     3   3.6 MB   200 to 600  step=N.ckpt             0         0",
        "Registered: 11.",
        "  Protected: 1 (1000)",
        "Total        2                   11  25.2 MB          1",
        "  1000   protected       2.7 MB         1.5",
        "  2500   min eval_loss   2.7 MB        1.17",
        "To delete: 4 (10.8 MB), at steps 500, 1500, 2000, 3000.",
        "Deleted: 4. Kept: 4.",
        "s3://training-artifacts/llama-sft/  16 objects",
    ):
        assert line in lines
    assert 2 == lines.count("s3://training-artifacts/vit-base/  3 objects")
    (excerpt,) = re.findall(r"^```text\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    assert set(excerpt.splitlines()) <= {*lines, ""}
