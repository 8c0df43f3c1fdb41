"""The codes that a log line gives as its `reason`."""

from enum import StrEnum


class Refusal(StrEnum):
    """Why nothing is deleted, so that somebody must decide. docs/operations.md explains each."""

    NO_OLD_IMAGE = "no_old_image"
    NOT_A_STRING = "not_a_string"
    NOT_AN_S3_URI = "not_an_s3_uri"
    NOT_UNICODE = "not_unicode"
    BLANK_KEY = "blank_key"
    URI_TOO_LONG = "uri_too_long"
    INVALID_CHARACTERS = "invalid_characters"
    ANOTHER_BUCKET = "another_bucket"
    NO_TRAILING_SLASH = "no_trailing_slash"
    COVERS_OTHER_CHECKPOINTS = "covers_other_checkpoints"
    PROTECTED = "protected"


# Why artifacts stay that somebody else needs.
SAVED_AGAIN = "saved_again"  # the checkpoint has a record again
SHARED = "shared"  # another checkpoint has them too

POSSIBLE_CONFLICT = "conflict_possible"  # the last question, about `SAVED_AGAIN`, was not answered
