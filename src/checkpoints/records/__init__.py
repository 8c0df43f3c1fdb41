"""The checkpoints table: what a record is, and how to read and delete records."""
