"""Measure the service beside what a user would pick instead.

Without options everything is measured, in under ten minutes, and docs/benchmarks.md and its
pictures are written anew.
"""

import argparse
import sys
from http.client import HTTPException

from measure import (
    PACKAGES,
    QUICK_PACKAGES,
    Bench,
    Progress,
    WrongResultError,
    measure_everything,
    measure_targets,
)
from packages import BuildError, build_all
from report import format_targets, write_report
from targets import TARGETS


def main() -> int:
    """Measure, report, and return the exit status."""
    options = parse_options()
    if sys.platform != "linux":
        sys.stderr.write("The benchmarks need Linux, as they run the packages that Lambda runs.\n")
        return 1
    progress = Progress()
    bench = Bench(progress, quick=options.quick)
    try:
        build_all(QUICK_PACKAGES if options.quick else PACKAGES, progress)
        (measure_targets if options.quick else measure_everything)(bench)
        progress.done()
        sys.stdout.write(format_targets(bench.results))
        if not options.quick:
            for path in write_report(bench.results):
                sys.stdout.write(f"Wrote {path}\n")
    except (BuildError, WrongResultError, RuntimeError, OSError, HTTPException) as error:
        sys.stderr.write(f"\nThe benchmark failed. {error or type(error).__name__}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped. Nothing was written.\n")
        return 130
    missed = [target for target in TARGETS if target.is_far_from(target.measure(bench.results))]
    if options.check and missed:
        sys.stderr.write(
            f"Missed, a time by more than a quarter: {'; '.join(t.name for t in missed)}\n"
        )
        return 1
    return 0


def parse_options() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="only what the targets need, in under two minutes"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="fail where a target is missed, a time by more than a quarter",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
