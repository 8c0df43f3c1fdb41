"""The deployed API answers as its published description says, whatever it is sent."""

import subprocess
import sysconfig
from pathlib import Path

from deployment import Deployment
from emulators.cloud import ROOT

SCHEMATHESIS = Path(sysconfig.get_path("scripts"), "schemathesis")


def test_schemathesis_finds_nothing(deployment: Deployment, token: str) -> None:
    process = subprocess.run(  # noqa: S603 it is a dependency
        [
            *(SCHEMATHESIS, "run", ROOT / "docs" / "openapi.json"),
            *("--url", deployment.outputs["ApiUrl"]),
            *("--header", f"Authorization: Bearer {token}"),
            *("--checks", "all", "--max-examples", "60", "--seed", "1", "--no-color"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )

    assert process.returncode == 0, process.stdout + process.stderr
