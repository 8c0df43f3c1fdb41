"""The deployed API matches its published description for any input."""

import subprocess
import sysconfig
from pathlib import Path

from deployment import Deployment
from emulators.aws import ROOT

SCHEMATHESIS = Path(sysconfig.get_path("scripts"), "schemathesis")


# The API ignores parameters that it does not know.
CONFIGURATION = "generation.allow-extra-parameters = false\n"


def test_schemathesis_finds_nothing(deployment: Deployment, token: str, tmp_path: Path) -> None:
    configuration = tmp_path / "schemathesis.toml"
    configuration.write_text(CONFIGURATION)
    process = subprocess.run(  # noqa: S603 it is a dependency
        [
            *(SCHEMATHESIS, "--config-file", configuration),
            *("run", ROOT / "docs" / "openapi.json"),
            *("--url", deployment.outputs["ApiUrl"]),
            *("--header", f"Authorization: Bearer {token}"),
            # The contract has any string for `after`; one that no checkpoint can have is a 422.
            *("--checks", "all", "--exclude-checks", "positive_data_acceptance"),
            *("--max-examples", "60", "--seed", "1", "--no-color"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )

    assert process.returncode == 0, process.stdout + process.stderr
