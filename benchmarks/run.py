"""Compare the function with other implementations.

Writes docs/benchmarks.md and its charts. With --check, writes nothing and fails if a target is
missed. In this check, times and CPU times may exceed their targets by 25 %.
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
    is_check = sys.argv[1:] == ["--check"]
    if not is_check:
        write_report(bench)
    progress("done")
    for target in targets(bench):
        verdict = "met" if target.is_met() else "missed"
        sys.stdout.write(f"{verdict:7}{target.value:7.3g} ≤ {target.limit:<6g}{target.name}\n")
    missed = [target.name for target in targets(bench) if not target.is_met(target.tolerance)]
    return f"Missed: {'; '.join(missed)}" if is_check and missed else None


if __name__ == "__main__":
    sys.exit(main())
