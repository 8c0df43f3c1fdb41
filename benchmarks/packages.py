"""Build the packages to measure into `.aws-sam/benchmarks`."""

import os
import shlex
import shutil
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


class BenchError(Exception):
    """The benchmark cannot continue; the message says why."""


def build_all(progress: Callable[[str], None]) -> None:
    """Build all packages: the samples as `sam build` does alone, the others with src/Makefile."""
    shutil.rmtree(BUILD, ignore_errors=True)
    progress("build Lambda's runtime client")
    RUNTIME.mkdir(parents=True)
    _export_requirements(BUILD, "lambda-runtime")
    install = [UV, "pip", "install", "--python", sys.executable, "-r", "requirements.txt"]
    _run([*install, "--compile-bytecode", "--target", str(RUNTIME)], BUILD)
    for name in NAMES:
        progress(f"build {name}")
        source = BUILD / f"{name}.work" / "source"
        modules = ROOT / ("src/checkpoints" if name == OURS else "benchmarks/peers")
        skipped = shutil.ignore_patterns("__pycache__")
        shutil.copytree(modules, source / "checkpoints", ignore=skipped)
        _export_requirements(source, "" if name == OURS else f"peer-{name}")
        if name == SAMPLES:  # without a makefile, sam installs the libraries, and compiles nothing
            _run([*install, "--target", str(BUILD / name)], source)
            shutil.copytree(source, BUILD / name, dirs_exist_ok=True)
        else:
            shutil.copy(ROOT / "src" / "Makefile", source)
            (BUILD / name).mkdir()
            variables = [f"PYTHON={sys.executable}", f"ARTIFACTS_DIR={BUILD / name}"]
            _run(["make", "build-ApiFunction", *variables], source)


def _export_requirements(folder: Path, group: str) -> None:
    """Write the locked libraries of a dependency group, or the project's, to requirements.txt."""
    libraries = ["--only-group", group] if group else ["--no-dev"]
    export = [UV, "export", "--frozen", "--no-emit-project", *libraries]
    _run([*export, "--output-file", str(folder / "requirements.txt")], ROOT)


def _run(command: list[str], folder: Path) -> None:
    """Run a tool. If it fails, report what it printed."""
    process = subprocess.run(  # noqa: S603 all commands come from this module
        command,
        cwd=folder,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if process.returncode:
        raise BenchError(f"{shlex.join(command)}:\n{process.stdout}")
