"""Compare the function with other implementations.

Writes docs/benchmarks.md and its picture. With --check, writes nothing and fails if a target is
missed.
"""

import sys
import time

from measure import Bench
from packages import BenchError, build_all
from report import targets, write_report

START = time.monotonic()


def progress(step: str) -> None:
    """Print the next step, with the elapsed seconds."""
    sys.stderr.write(f"{time.monotonic() - START:4.0f} s  {step}\n")


def main() -> str | None:
    """Build, measure and report. Return the reason if this fails."""
    try:
        build_all(progress)
        bench = Bench(progress)
        bench.measure()
    except BenchError as error:
        return f"The benchmark failed. {error}"
    except KeyboardInterrupt:
        return "Interrupted. Nothing was written."
    progress("done")
    for target in targets(bench):
        sys.stdout.write("{:55}{:>12}  {}\n".format(*target.cells()))
    missed = [target.name for target in targets(bench) if not target.is_met]
    if sys.argv[1:] != ["--check"]:
        write_report(bench)
        return None
    return f"Missed: {'; '.join(missed)}" if missed else None


if __name__ == "__main__":
    sys.exit(main())
