"""The packages that are measured: each implementation, packaged by `sam build` and like ours.

All are built into `.aws-sam/benchmarks` and kept until what they are made of or by changes.
"""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILD = ROOT / ".aws-sam" / "benchmarks"
UV = ROOT / ".tools" / "bin" / "uv"
ARCHITECTURE = {"aarch64": "arm64"}.get(platform.machine(), platform.machine())

OURS = "ours"
FLOOR = "floor"
FASTAPI = "fastapi_mangum"
SAMPLES = "powertools_samples"
IMPLEMENTATIONS = (FLOOR, FASTAPI, SAMPLES, OURS)

# How a package is built: by our own recipe, or by `sam build` without one.
MAKEFILE = "makefile"
DEFAULT = "default"

COMPILE = [sys.executable, "-m", "compileall", "-q", "-j", "0"]

TEMPLATE = """\
Transform: AWS::Serverless-2016-10-31
Resources:
  Function:
    Type: AWS::Serverless::Function
    Properties:
      CodeUri: source
      Handler: checkpoints.app.lambda_handler
      Runtime: python3.13
      Architectures: [{architecture}]
"""


class BuildError(Exception):
    """A package could not be built; the message is what the tool said."""


@dataclass(frozen=True)
class Package:
    """An implementation, ready to be run by Lambda."""

    implementation: str
    packaging: str = MAKEFILE  # or DEFAULT

    @property
    def path(self) -> Path:
        """The folder that Lambda would mount at /var/task."""
        return BUILD / f"{self.implementation}-{self.packaging}"

    def build(self) -> None:
        """Build it, unless it is there and made of the same."""
        stamp = self.path.with_suffix(".stamp")
        current = self._digest()
        if stamp.exists() and stamp.read_text() == current:
            return
        stamp.unlink(missing_ok=True)
        work = self.path.with_suffix(".work")
        for folder in (work, self.path):
            shutil.rmtree(folder, ignore_errors=True)
        source = work / "source"
        self._stage(source)
        if self.packaging == MAKEFILE:
            self._build_like_ours(source)
        else:
            self._build_by_default(work)
        shutil.rmtree(work)
        stamp.write_text(current)

    def _digest(self) -> str:
        return digest(Path(__file__), ROOT / "src" / "Makefile", *self._modules())

    def _modules(self) -> list[Path]:
        if self.implementation == OURS:
            return sorted((ROOT / "src" / "checkpoints").glob("*.py"))
        return [ROOT / "benchmarks" / "peers" / f"{self.implementation}.py"]

    def _stage(self, source: Path) -> None:
        """Lay the implementation out as ours is, so that one handler's name fits all."""
        package = source / "checkpoints"
        package.mkdir(parents=True)
        if self.implementation == OURS:
            for module in self._modules():
                shutil.copy(module, package)
            group = ["--no-dev"]
        else:
            (package / "__init__.py").touch()
            (module,) = self._modules()
            shutil.copy(module, package / "app.py")
            group = ["--only-group", f"peer-{self.implementation.replace('_', '-')}"]
        hashes = [] if self.packaging == MAKEFILE else ["--no-hashes"]
        export_requirements(source / "requirements.txt", *group, *hashes)

    def _build_like_ours(self, source: Path) -> None:
        """Use our own recipe, as `sam build` does with a makefile."""
        shutil.copy(ROOT / "src" / "Makefile", source)
        self.path.mkdir()
        variables = {
            "PYTHON": sys.executable,
            "ARCHITECTURE": ARCHITECTURE,
            "ARTIFACTS_DIR": self.path,
        }
        values = [f"{name}={value}" for name, value in variables.items()]
        run(["make", "build-DeleteCheckpointsFunction", *values], cwd=source)

    def _build_by_default(self, work: Path) -> None:
        (work / "template.yaml").write_text(TEMPLATE.format(architecture=ARCHITECTURE))
        run([*shlex.split(sam()), "build", "--build-dir", "build"], cwd=work)
        (work / "build" / "Function").rename(self.path)


def build_runtime() -> Path:
    """Return the folder with Lambda's runtime client, compiled as it is in the cloud."""
    path = BUILD / "runtime"
    stamp = BUILD / "runtime.stamp"
    current = digest()
    if not stamp.exists() or stamp.read_text() != current:
        stamp.unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        library = Path(sysconfig.get_path("stdlib"))
        if library.is_relative_to(ROOT):  # a downloaded Python is not compiled; Lambda's is
            run([*COMPILE, "-x", "site-packages|/tests?/", str(library)], cwd=ROOT)
        requirements = BUILD / "runtime.txt"
        export_requirements(requirements, "--only-group", "lambda-runtime")
        install = [str(UV), "pip", "install", "--compile-bytecode", "--python", sys.executable]
        run([*install, "--target", str(path), "--requirements", str(requirements)], cwd=ROOT)
        stamp.write_text(current)
    return path


def digest(*parts: Path) -> str:
    """Return what changes with these files, with the libraries, and with the tools."""
    tools = [sys.version, sys.executable, ARCHITECTURE, sam()]
    content = [*map(str.encode, tools), *(part.read_bytes() for part in [*parts, ROOT / "uv.lock"])]
    return hashlib.sha256(b"\0".join(content)).hexdigest()


def sam() -> str:
    """Return the command of the SAM CLI, which the Makefile says."""
    try:
        return os.environ["SAM"]
    except KeyError:
        raise BuildError("SAM is to name the SAM CLI. `make bench` says it.") from None


def export_requirements(path: Path, *options: str) -> None:
    """Write the locked versions of a group of libraries."""
    export = [str(UV), "export", "--frozen", "--no-emit-project", *options]
    run([*export, "--output-file", str(path)], cwd=ROOT)


def build_all(packages: Iterable[Package], progress: Callable[[str], None]) -> None:
    """Build what is not there yet."""
    BUILD.mkdir(parents=True, exist_ok=True)
    progress("the Lambda runtime client")
    build_runtime()
    for package in packages:
        progress(f"{package.implementation}, package by {package.packaging}")
        package.build()


def run(command: list[str], cwd: Path) -> None:
    """Run a tool, and pass on what it says only if it fails."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(  # noqa: S603 the callers name the tools
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BuildError(f"{shlex.join(command)}:\n{done.stdout}{done.stderr}")
