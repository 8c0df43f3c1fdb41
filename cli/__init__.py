"""Commands for people who use or operate the API."""
