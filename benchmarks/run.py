"""Measure the function beside what it could have been built with instead. Linux only.

Writes docs/benchmarks.md and its pictures. With --check it writes nothing, and fails if a target
is missed: a time by more than a quarter, anything else at all.
"""

import sys
import time

from measure import Bench, WrongAnswerError
from packages import BuildError, build_all
from report import targets, write_report

START = time.monotonic()


def progress(step: str) -> None:
    """Print a step that begins, on one line if that is a terminal."""
    begin, end = ("\r\x1b[K", "") if sys.stderr.isatty() else ("", "\n")
    sys.stderr.write(f"{begin}{time.monotonic() - START:4.0f} s  {step}{end}")
    sys.stderr.flush()


def main() -> int:
    """Build, measure and report; return the exit status."""
    if sys.platform != "linux":
        sys.stderr.write("The benchmarks run the packages as Lambda does, which needs Linux.\n")
        return 1
    is_check = sys.argv[1:] == ["--check"]
    try:
        build_all(progress)
        bench = Bench(progress)
        bench.measure()
        if not is_check:
            write_report(bench)
    except (BuildError, WrongAnswerError) as error:
        sys.stderr.write(f"\nThe benchmark failed. {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted. Nothing was written.\n")
        return 130
    progress("done\n")
    for target in targets(bench):
        verdict = "met" if target.is_met() else "missed"
        sys.stdout.write(
            f"{verdict:7}{target.value:8.3g}, at most {target.limit:g}: {target.name}\n"
        )
    return int(is_check and not all(target.is_met(target.tolerance) for target in targets(bench)))


if __name__ == "__main__":
    sys.exit(main())
