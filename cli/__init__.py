"""The command `checkpoints`, for people who use or operate the API."""
