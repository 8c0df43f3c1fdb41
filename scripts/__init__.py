"""Commands that people run, and modules that only these commands import."""
