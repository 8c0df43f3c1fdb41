"""The package as it was built, and run by Lambda's own runtime client.

This is all of `sam local invoke` but the container.
"""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deployment import Deployment
from emulators import STACK
from emulators.aws import BUILD, ROOT, build_environment
from emulators.template import read_template
from events import MODEL, SAMPLE_STATUSES, make_event
from package import PACKAGE, InvokePackage, package_running
from template_resolver import of_type

EVENTS = ROOT / "events"
MAKE = ["make", "-C", str(ROOT / "src"), "build-ApiFunction"]

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
import checkpoints.api.app, checkpoints.reclaim.app, checkpoints.reclaim.queue
print(json.dumps({
    "compiled": compiled,
    "written": written,
    "origins": [module.__file__ for module in sys.modules.values() if hasattr(module, "__file__")],
    "handlers": [
        callable(module.lambda_handler)
        for module in (checkpoints.api.app, checkpoints.reclaim.app, checkpoints.reclaim.queue)
    ],
}))
"""


@pytest.fixture(scope="module")
def imported(deployment: Deployment) -> dict[str, Any]:  # noqa: ARG001 it builds
    """Import the handler as Lambda does: the standard library and the package, nothing else."""
    process = subprocess.run(  # noqa: S603 it is ours
        [sys.executable, "-I", "-S", "-c", IMPORT, PACKAGE],
        env={},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert process.returncode == 0, process.stderr
    found: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return found


def test_contains_all_handlers(imported: dict[str, Any]) -> None:
    assert [True] * 3 == imported["handlers"]


def test_compiles_nothing_when_it_is_imported(imported: dict[str, Any]) -> None:
    """The only exceptions are code objects that Python creates in memory."""
    assert [] == [path for path in imported["compiled"] if "<" not in path]


def test_writes_nothing_when_it_is_imported(imported: dict[str, Any]) -> None:
    assert [] == imported["written"]


def test_contains_all_its_dependencies(imported: dict[str, Any]) -> None:
    standard_library = Path(os.__file__).parent
    for origin in imported["origins"]:
        assert Path(origin).is_relative_to(PACKAGE) or Path(origin).is_relative_to(standard_library)


def test_runs_on_both_architectures(imported: dict[str, Any]) -> None:  # noqa: ARG001 it builds
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
        [*MAKE, f"PYTHON={python}", f"ARTIFACTS_DIR={folder}"],
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


def test_brings_no_service_model_but_those_of_three_services() -> None:
    models = (path.parent for path in PACKAGE.rglob("service-2.json*"))

    assert {f"botocore/data/{name}" for name in ("dynamodb", "s3", "sqs")} == {
        str(path.parent.relative_to(PACKAGE)) for path in models
    }
    assert not list(PACKAGE.rglob("resources-1.json*"))


def test_contains_only_the_endpoints_of_these_services() -> None:
    known = json.loads((PACKAGE / "botocore" / "data" / "endpoints.json").read_bytes())

    for partition in known["partitions"]:
        assert {"dynamodb", "s3", "sqs"} == set(partition["services"])


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


def test_leaves_the_x_ray_sdk_out() -> None:
    assert not list(PACKAGE.glob("aws_xray_sdk*"))


@pytest.fixture(scope="module")
def invoke(deployment: Deployment) -> Iterator[InvokePackage]:
    """Run the package in the environment that the deployed function has."""
    template = read_template(BUILD / "template.yaml")
    function = template["Resources"]["ApiFunction"]["Properties"]
    variables = {
        name: resolve(value, deployment)
        for name, value in function["Environment"]["Variables"].items()
    }
    with package_running(function["Handler"], variables | deployment.cloud.environment) as invoke:
        yield invoke


def resolve(value: dict[str, Any], deployment: Deployment) -> str:
    """Return an environment variable of the template as it is in a deployment."""
    match value:
        case {"Ref": "DynamoDBEndpoint"}:
            return deployment.endpoint.url
        case {"Ref": "AWS::StackName"}:
            return STACK
        case {"Fn::If": ["HasExistingTable", _, own]}:
            return resolve(own, deployment)
        case {"Ref": table}:
            return deployment.outputs[f"{table}Name"]
    raise ValueError(value)


@pytest.mark.parametrize(("name", "status"), SAMPLE_STATUSES.items())
def test_returns_the_expected_status_for_every_sample_event(
    deployment: Deployment, invoke: InvokePackage, name: str, status: int
) -> None:
    for token, scope in (
        ("vision-team-demo-token", "checkpoints:delete"),
        ("speech-team-demo-token", "checkpoints:delete"),
        ("read-only-demo-token", "checkpoints:read"),
    ):
        deployment.put_token(token, scope=scope)

    assert status == invoke(json.loads((EVENTS / f"{name}.json").read_bytes())).status


def test_deletes(deployment: Deployment, invoke: InvokePackage, token: str) -> None:
    deployment.put_checkpoints(range(3))

    response = invoke(make_event(steps=[0, 1, 9], token=token))

    assert {"deleted_count": 2, "not_found_steps": [9]} == response.body
    assert {2} == deployment.stored_steps()


def test_takes_a_slash_in_the_model_id(
    deployment: Deployment, invoke: InvokePackage, token: str
) -> None:
    deployment.put_checkpoints(range(1), model_id="a/b")

    response = invoke(make_event(steps=[0], token=token, model_id="a/b"))

    assert {"deleted_count": 1, "not_found_steps": []} == response.body


def test_takes_an_event_that_the_sam_cli_generates(
    deployment: Deployment, invoke: InvokePackage, token: str
) -> None:
    deployment.put_checkpoints(range(3))
    generated = subprocess.run(  # noqa: S603 the Makefile names it
        [
            *shlex.split(os.environ["SAM"]),
            *("local", "generate-event", "apigateway", "aws-proxy", "--method", "DELETE"),
            *("--resource", "/v1/preview/models/{model_id}/checkpoints"),
            *("--path", f"v1/preview/models/{MODEL}/checkpoints", "--body", '{"steps": [0, 9]}'),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    event = json.loads(generated.stdout)
    event["headers"]["Authorization"] = f"Bearer {token}"

    assert {"deleted_count": 1, "not_found_steps": [9]} == invoke(event).body
