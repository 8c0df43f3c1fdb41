"""Commands that people run."""
