"""The package as it was built."""

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from cli.template import read_template
from emulators.aws import ROOT, build_environment
from package import PACKAGE
from template_resolver import of_type

IMPORT = """
import json, sys
sys.path.append(sys.argv[1])
compiled, written = [], []

def audit(event, arguments):
    if event == "compile" and arguments[1]:
        compiled.append(str(arguments[1]))
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        written.append(str(arguments[0]))

sys.addaudithook(audit)
from checkpoints.api.app import lambda_handler
from checkpoints.reclaim.app import lambda_handler
from checkpoints.reclaim.queue import lambda_handler
print(json.dumps({
    "compiled": compiled,
    "written": written,
    "loaded": [module.__file__ for module in sys.modules.values() if hasattr(module, "__file__")],
}))
"""

pytestmark = pytest.mark.usefixtures("deployment")  # which builds the package


def test_is_complete_and_compiled() -> None:
    """Import the handlers as Lambda does: the standard library and the package, nothing else."""
    process = subprocess.run(  # noqa: S603 it is ours
        [sys.executable, "-I", "-S", "-c", IMPORT, PACKAGE],
        env={},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert process.returncode == 0, process.stderr
    found: dict[str, list[str]] = json.loads(process.stdout.splitlines()[-1])
    # Python creates code objects in memory, whose "file" is something like <string>.
    assert [] == [path for path in found["compiled"] if "<" not in path]
    assert [] == found["written"]
    places = (str(PACKAGE), sysconfig.get_path("stdlib"))
    assert [] == [path for path in found["loaded"] if not path.startswith(places)]


def test_runs_on_both_architectures() -> None:
    """Each compiled file is there once for each processor, as CPython 3.13 names it there."""
    aarch64, x86_64 = 0xB7, 0x3E

    assert {
        "pydantic_core/_pydantic_core.cpython-313-aarch64-linux-gnu.so": aarch64,
        "pydantic_core/_pydantic_core.cpython-313-x86_64-linux-gnu.so": x86_64,
    } == elf_machines(PACKAGE)


def elf_machines(folder: Path) -> dict[str, int]:
    """Return the processor that each compiled file in a folder is for, as ELF numbers them."""
    machines = {}
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                header = file.read(20)
            if header.startswith(b"\x7fELF"):
                machines[str(path.relative_to(folder))] = int.from_bytes(header[18:], "little")
    return machines


def build_into(folder: Path, python: str) -> subprocess.CompletedProcess[str]:
    """Run the makefile as `sam build` does."""
    return subprocess.run(  # noqa: S603 it is ours
        [
            *("make", "-C", ROOT / "src", "build-ApiFunction"),
            *(f"PYTHON={python}", f"ARTIFACTS_DIR={folder}"),
        ],
        env=build_environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def test_is_not_built_with_a_file_for_one_architecture_only(tmp_path: Path) -> None:
    name = "other.cpython-313-aarch64-linux-gnu.so"
    (tmp_path / name).touch()

    process = build_into(tmp_path, sys.executable)

    assert process.returncode != 0
    assert f"these compiled files are for only one of them: ./{name}" in process.stderr


def test_leaves_out_what_no_function_uses() -> None:
    models = {path.parts[-3] for path in PACKAGE.rglob("service-2.json*")}
    known = json.loads((PACKAGE / "botocore" / "data" / "endpoints.json").read_bytes())

    assert {"dynamodb", "s3", "sqs"} == models
    for partition in known["partitions"]:
        assert models == set(partition["services"])
    assert [] == [*PACKAGE.rglob("resources-1.json*"), *PACKAGE.glob("aws_xray_sdk*")]


def test_is_the_same_for_all_functions() -> None:
    functions = of_type(read_template()["Resources"], "AWS::Serverless::Function")
    first, *others = (
        {path.relative_to(package): path.stat().st_size for path in package.rglob("*.*")}
        for package in map(PACKAGE.with_name, functions)
    )

    assert others
    assert all(first == other for other in others)


@pytest.mark.parametrize("python", ["/bin/false", "absent"])
def test_refuses_to_build_with_another_python(tmp_path: Path, python: str) -> None:
    """Otherwise Lambda's Python would have to compile the package again."""
    process = build_into(tmp_path, python)

    assert process.returncode != 0
    assert (
        f"The build needs Python 3.13, but '{python}' is missing or another version. "
        "Run make build, which uses the Python in .venv, or set "
        "PYTHON=/path/to/python3.13 for sam build\n"
    ) in process.stderr
    assert [] == list(tmp_path.iterdir())
