"""The packages that are measured, built into `.aws-sam/benchmarks`."""

import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILD = ROOT / ".aws-sam" / "benchmarks"
RUNTIME = BUILD / "runtime"
UV = str(ROOT / ".tools" / "bin" / "uv")

OURS, FLOOR = "ours", "floor"
FASTAPI, SAMPLES = "fastapi_mangum", "powertools_samples"
NAMES = (FLOOR, FASTAPI, SAMPLES, OURS)
HANDLERS = {name: f"checkpoints.{name}.lambda_handler" for name in NAMES} | {
    OURS: "checkpoints.app.lambda_handler"
}

TEMPLATE = f"""\
Transform: AWS::Serverless-2016-10-31
Resources:
  Function:
    Type: AWS::Serverless::Function
    Properties:
      CodeUri: source
      Handler: {HANDLERS[SAMPLES]}
      Runtime: python3.13
      Architectures: [{platform.machine().replace("aarch64", "arm64")}]
"""

# A handler that deletes as ours does, but with one transaction at a time.
ONE_AT_A_TIME = """\
from checkpoints import store
assert store.CONCURRENT_TRANSACTIONS > 1
store.CONCURRENT_TRANSACTIONS = 1
from checkpoints.app import lambda_handler
"""


class BuildError(Exception):
    """A package could not be built; the message is the output of the tool."""


def build_all(progress: Callable[[str], None]) -> None:
    """Build everything anew: ours and the peers by src/Makefile, the samples by `sam build`."""
    shutil.rmtree(BUILD, ignore_errors=True)
    progress("build Lambda's runtime client")
    RUNTIME.mkdir(parents=True)
    library = Path(sysconfig.get_path("stdlib"))
    if library.is_relative_to(ROOT):  # uv's Python comes without bytecode; Lambda's has it
        options = ["-q", "-j", "0", "-x", "site-packages|/tests?/"]
        _run([sys.executable, "-m", "compileall", *options, str(library)], cwd=ROOT)
    _export_requirements(BUILD / "runtime.txt", "--only-group", "lambda-runtime")
    install = [UV, "pip", "install", "--compile-bytecode", "--python", sys.executable]
    _run([*install, "--target", str(RUNTIME), "--requirements", "runtime.txt"], cwd=BUILD)
    (RUNTIME / "one_at_a_time.py").write_text(ONE_AT_A_TIME)
    for name in NAMES:
        progress(f"build {name}")
        _build(name)


def _build(name: str) -> None:
    work = BUILD / f"{name}.work"
    source = work / "source"
    modules = ROOT / ("src/checkpoints" if name == OURS else "benchmarks/peers")
    shutil.copytree(modules, source / "checkpoints", ignore=shutil.ignore_patterns("__pycache__"))
    group = ["--no-dev"] if name == OURS else ["--only-group", f"peer-{name}"]
    _export_requirements(source / "requirements.txt", *group)
    if name == SAMPLES:
        (work / "template.yaml").write_text(TEMPLATE)
        _run([*shlex.split(os.environ["SAM"]), "build", "--build-dir", "build"], cwd=work)
        (work / "build" / "Function").rename(BUILD / name)
    else:
        shutil.copy(ROOT / "src" / "Makefile", source)
        (BUILD / name).mkdir()
        variables = [f"PYTHON={sys.executable}", f"ARTIFACTS_DIR={BUILD / name}"]
        _run(["make", "build-ApiFunction", *variables], cwd=source)


def _export_requirements(path: Path, *options: str) -> None:
    """Write the locked versions of a group of libraries."""
    export = [UV, "export", "--frozen", "--no-emit-project", *options]
    _run([*export, "--output-file", str(path)], cwd=ROOT)


def _run(command: list[str], cwd: Path) -> None:
    """Run a tool. If it fails, raise its output; if this process is interrupted, kill it."""
    with subprocess.Popen(  # noqa: S603 the callers name the tools
        command,
        cwd=cwd,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    ) as process:
        try:
            output, _ = process.communicate()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)  # with the tools that it started
            raise
    if process.returncode:
        raise BuildError(f"{shlex.join(command)}:\n{output}")
