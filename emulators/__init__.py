"""Imported by scripts, tests and benchmarks; not part of the product, and not run by people."""

STACK = "checkpoints"
