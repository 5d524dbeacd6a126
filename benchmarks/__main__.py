"""Runs all benchmarks, or those named: ``python -m benchmarks [steps] [preprocess] [train_workers]``."""

from __future__ import annotations

import sys

from benchmarks import pipeline_steps, preprocess_throughput, train_workers
from benchmarks.machine import machine

BENCHMARKS = {
    "steps": pipeline_steps.main,
    "preprocess": lambda: preprocess_throughput.main([300, 3_000, 30_000]),
    "train_workers": train_workers.main,
}


def main() -> None:
    """Run the benchmarks whose names are given, or all."""
    names = sys.argv[1:] or list(BENCHMARKS)
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        sys.exit(f"There are the benchmarks {', '.join(BENCHMARKS)}; received {', '.join(unknown)}.")
    print(f"Machine: {machine()}\n")
    for name in names:
        print(f"## {name}\n", flush=True)
        BENCHMARKS[name]()
        print()


if __name__ == "__main__":
    main()
