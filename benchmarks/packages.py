"""Build the packages to measure into `.aws-sam/benchmarks`."""

import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILD = ROOT / ".aws-sam" / "benchmarks"
RUNTIME = BUILD / "runtime"
UV = str(ROOT / ".tools" / "bin" / "uv")

OURS, BARE_HANDLER = "ours", "bare_handler"
FASTAPI, SAMPLES = "fastapi_mangum", "powertools_samples"
NAMES = (BARE_HANDLER, FASTAPI, SAMPLES, OURS)
HANDLERS = {name: f"checkpoints.{name}.lambda_handler" for name in NAMES}
HANDLERS[OURS] = "checkpoints.api.app.lambda_handler"

# This API, but with only one DynamoDB call at a time.
SEQUENTIAL = "ours_sequential"
SEQUENTIAL_MODULE = """\
from concurrent import futures
pool = futures.ThreadPoolExecutor
futures.ThreadPoolExecutor = lambda *_: pool(1)
from checkpoints.api.app import lambda_handler
"""
HANDLERS[SEQUENTIAL] = f"{SEQUENTIAL}.lambda_handler"


class BenchError(Exception):
    """The benchmark cannot continue; the message says why."""


def build_all(progress: Callable[[str], None]) -> None:
    """Build all packages: the samples with `sam build` alone, the others with src/Makefile."""
    shutil.rmtree(BUILD, ignore_errors=True)
    progress("build Lambda's runtime client")
    RUNTIME.mkdir(parents=True)
    _export_requirements(BUILD, "lambda-runtime")
    install = [UV, "pip", "install", "--compile-bytecode", "--python", sys.executable]
    _run([*install, "--target", str(RUNTIME), "--requirements", "requirements.txt"], BUILD)
    for name in NAMES:
        progress(f"build {name}")
        source = BUILD / f"{name}.work" / "source"
        modules = ROOT / ("src/checkpoints" if name == OURS else "benchmarks/peers")
        skipped = shutil.ignore_patterns("__pycache__", "*.yaml")
        shutil.copytree(modules, source / "checkpoints", ignore=skipped)
        _export_requirements(source, "" if name == OURS else f"peer-{name}")
        if name == SAMPLES:
            shutil.copy(modules / "template.yaml", source.parent)
            overrides = f"Architecture={platform.machine().replace('aarch64', 'arm64')}"
            sam = [*shlex.split(os.environ["SAM"]), "build", "--parameter-overrides", overrides]
            _run([*sam, "--build-dir", "build"], source.parent)
            (source.parent / "build" / "Function").rename(BUILD / name)
        else:
            shutil.copy(ROOT / "src" / "Makefile", source)
            (BUILD / name).mkdir()
            variables = [f"PYTHON={sys.executable}", f"ARTIFACTS_DIR={BUILD / name}"]
            _run(["make", "build-ApiFunction", *variables], source)
    shutil.copytree(BUILD / OURS, BUILD / SEQUENTIAL)
    (BUILD / SEQUENTIAL / f"{SEQUENTIAL}.py").write_text(SEQUENTIAL_MODULE)


def _export_requirements(folder: Path, group: str) -> None:
    """Write the locked libraries of a dependency group, or the project's, to requirements.txt."""
    libraries = ["--only-group", group] if group else ["--no-dev"]
    export = [UV, "export", "--frozen", "--no-emit-project", *libraries]
    _run([*export, "--output-file", str(folder / "requirements.txt")], ROOT)


def _run(command: list[str], folder: Path) -> None:
    """Run a tool. If this process is interrupted, kill the tool and its child processes."""
    with subprocess.Popen(  # noqa: S603 all commands come from this module
        command,
        cwd=folder,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    ) as process:
        try:
            output, _ = process.communicate()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode:
        raise BenchError(f"{shlex.join(command)}:\n{output}")
