"""Run commands that run until they are stopped, and find the processes they leave behind."""

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from emulators.aws import ROOT
from scripts import local

STOPPED = ["Stopping, which can take a moment.", "Stopped. No process is left running."]


@dataclass
class Command:
    """A script that runs, and the lines that it printed."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    def read_until(self, text: str) -> str:
        """Read until a line contains this text; return the line."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if text in line:
                return line
        raise AssertionError(f"ended without {text!r}: {self.lines}")

    def stop(self, name: signal.Signals) -> None:
        """Send it a signal, and check that it ends without an error and leaves nothing running."""
        started = descendants(self.process.pid)
        assert started
        self.process.send_signal(name)
        rest, _ = self.process.communicate(timeout=30)
        assert (0, STOPPED) == (self.process.returncode, rest.splitlines()[-2:])
        # The process that adopted a killed one can take a moment to notice its end.
        deadline = time.monotonic() + 5
        while (left := started & processes().keys()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert set() == left


@contextmanager
def running(script: str, *arguments: str) -> Iterator[Command]:
    """Run one of the scripts in a separate process."""
    process = subprocess.Popen(  # noqa: S603 it is ours
        [sys.executable, ROOT / "scripts" / script, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        try:
            yield Command(process)
        finally:
            process.terminate()


def sam_commands(port: int) -> list[str]:
    """Return the commands of the SAM CLI that the instructions of `make local` run."""
    text = local.instructions(port).replace("\\\n", "")
    script = re.findall(r"^  make (.*)$", text, re.MULTILINE)
    printed = subprocess.run(
        ["bash", "-e"],  # noqa: S607 it has another place on each system
        input="\n".join(f"make --dry-run {command}" for command in script),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return re.findall(r"^.* local (?:invoke|start-api) .*$", printed.stdout, re.MULTILINE)


def processes() -> dict[int, int]:
    """Return the parent of each process that exists."""
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="],  # noqa: S607 it has another place on each system
        capture_output=True,
        text=True,
        check=True,
    )
    lines = (line.split() for line in listed.stdout.splitlines())
    return {int(child): int(parent) for child, parent in lines}


def descendants(pid: int) -> set[int]:
    """Return all descendants of a process."""
    parents = processes()
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def own_address() -> str:
    """Return the address of this machine in the network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        connection.connect(("192.0.2.1", 9))  # which is nowhere; nothing is sent
        address: str = connection.getsockname()[0]
    assert not address.startswith("127.")
    return address
