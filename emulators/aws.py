"""A local AWS emulator (MiniStack), with the functions built and deployed to it."""

import os
import platform
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3

from cli.errors import CommandError
from cli.proxies import LOOPBACK
from emulators import STACK
from emulators.environment import INHERITED, isolated

ROOT = Path(__file__).parents[1]
BUILD = ROOT / ".aws-sam" / "local"

# Lambda's names for `platform.machine()`.
ARCHITECTURES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}
EVERY_ADDRESS = "0.0.0.0"  # noqa: S104 a container reaches this machine by another address
MAX_PORT = 65_535
START_SECONDS = 60
STOP_SECONDS = 10


class AwsEmulatorError(CommandError):
    """The emulator, the build or the deployment failed, or a port is not free or not valid.

    The message is a sentence that says why.
    """


@dataclass(frozen=True)
class AwsEmulator:
    """A local AWS emulator (MiniStack) that listens on a port."""

    port: int

    @property
    def endpoint(self) -> str:
        """The URL of all AWS services."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that make any AWS tool use this emulator."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def client(self, service: Any) -> Any:  # noqa: ANN401 one client class for each service
        """Return a client of one of its services."""
        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            region_name=self.environment["AWS_DEFAULT_REGION"],
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
        )

    def is_listening(self) -> bool:
        """Return whether it accepts connections."""
        with socket.socket() as connection:
            connection.settimeout(1)
            return connection.connect_ex((LOOPBACK, self.port)) == 0

    def deploy(self, stack: str = STACK, **parameters: str) -> dict[str, str]:
        """Create or update a stack from what `build` built; return its outputs.

        `ApiUrl` is replaced with the local URL of the API.
        """
        bucket = "packages"
        self.client("s3").create_bucket(Bucket=bucket)
        overrides = {"Architecture": architecture()} | parameters
        _run(
            *_tool("SAM"),
            *("deploy", "--no-confirm-changeset", "--no-fail-on-empty-changeset"),
            *("--stack-name", stack, "--s3-bucket", bucket, "--capabilities", "CAPABILITY_IAM"),
            *("--template-file", str(BUILD / "template.yaml"), "--no-progressbar"),
            "--parameter-overrides",
            *(f"{name}={value}" for name, value in overrides.items()),
            environment=isolated() | self.environment,
        )
        (found,) = self.client("cloudformation").describe_stacks(StackName=stack)["Stacks"]
        outputs = {output["OutputKey"]: output["OutputValue"] for output in found["Outputs"]}
        aws_url = urlsplit(outputs["ApiUrl"])
        api_id = aws_url.netloc.partition(".")[0]
        outputs["ApiUrl"] = f"{self.endpoint}/_aws/execute-api/{api_id}{aws_url.path}"
        return outputs


def free_port(wanted: int, host: str = LOOPBACK) -> int:
    """Return the wanted port, or a free one if that is 0.

    Raises:
        AwsEmulatorError: the port is already in use, or is not valid.

    """
    if not 0 <= wanted <= MAX_PORT:
        raise AwsEmulatorError(f"{wanted} is not a port. Use 0 to {MAX_PORT}.")
    port = wanted
    try:
        # On macOS, every address can be free while the loopback address is not.
        for address in (LOOPBACK, host):
            with socket.create_server((address, port)) as server:
                port = server.getsockname()[1]
    except OSError as error:
        reason = os.strerror(error.errno or 0)  # without the address, which the user did not choose
        raise AwsEmulatorError(
            f"Cannot listen on port {wanted}: {reason}. Stop the program that uses it, or set PORT."
        ) from None
    return port


def architecture() -> str:
    """Return Lambda's name for the architecture of this machine."""
    return ARCHITECTURES[platform.machine().lower()]


def build() -> None:
    """Package the functions."""
    _run(*_tool("SAM"), *("build", "--build-dir", str(BUILD)), environment=build_environment())


def build_environment() -> dict[str, str]:
    """Return the user's environment, which may name a proxy, without what changes the build."""
    changing = ("AWS_", "MAKE", "PYTHON", "SAM_")
    kept = {
        name: value
        for name, value in INHERITED.items()
        if name == "PYTHON_KEYRING_BACKEND" or not name.startswith(changing)
    }
    return kept | {"PYTHON": sys.executable, "SAM_CLI_TELEMETRY": "0"}


@contextmanager
def aws_emulator(
    port: int = 0, *, host: str = LOOPBACK, services: str = "", enforce_iam: bool = False
) -> Iterator[AwsEmulator]:
    """Run the block with a local AWS emulator, on a free port unless one is given.

    `host` is the address to listen on. `services` names the services to run, such as "dynamodb"; if
    it is empty, all run.

    Raises:
        AwsEmulatorError: it does not start, or the port is in use or not valid.

    """
    emulator = AwsEmulator(free_port(port, host))
    with tempfile.TemporaryDirectory(prefix="aws-emulator-") as scratch:
        log = Path(scratch, "log")
        with log.open("wb") as stream:
            process = subprocess.Popen(  # noqa: S603 the Makefile sets it
                _tool("MINISTACK"),
                env=isolated()
                | {
                    "GATEWAY_PORT": str(emulator.port),
                    "BIND_HOST": host,
                    "SERVICES": services,
                    "AUTH": str(enforce_iam).lower(),
                    "TMPDIR": scratch,
                },
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # to stop it together with all its child processes
            )
        try:
            _wait_until_ready(emulator, process, log)
            yield emulator
        finally:
            _stop(process)


def _run(*command: str, environment: Mapping[str, str]) -> None:
    """Run a command silently; if it fails, the error contains its output."""
    process = subprocess.Popen(  # noqa: S603 the Makefile sets it
        command,
        env=environment,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    )
    try:
        output, _ = process.communicate()
    finally:
        _stop(process)
    if process.returncode:
        raise AwsEmulatorError(f"{shlex.join(command)} failed:\n{output}")


def _tool(name: str) -> list[str]:
    """Return the command of a tool, which the Makefile exports with the pinned version."""
    try:
        return shlex.split(os.environ[name])
    except KeyError:
        raise AwsEmulatorError(
            f"{name} is not set. Run make serve, make local or make e2e."
        ) from None


def _wait_until_ready(emulator: AwsEmulator, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        if emulator.is_listening():
            return
        time.sleep(0.1)
    raise AwsEmulatorError(
        f"The local AWS emulator did not start:\n{log.read_text(errors='replace')}"
    )


def _stop(process: subprocess.Popen[Any]) -> None:
    """Stop a process and its child processes, if it is still running."""
    for name in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, name)
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            return
