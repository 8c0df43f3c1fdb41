"""Free the storage of deleted checkpoints: from the stream to a queue, and from it to S3."""

from botocore.config import Config

from checkpoints.dynamodb import USER_AGENT

# The clients for S3 and SQS are the same but for the service.
CONNECT_TIMEOUT_SECONDS = 2
READ_TIMEOUT_SECONDS = 10
MAX_ATTEMPTS = 3
BACKOFF_SECONDS = 13  # 1 s, then 2 s, and 5 s more each if the response has x-amz-retry-after
MAX_CALL_SECONDS = MAX_ATTEMPTS * (CONNECT_TIMEOUT_SECONDS + READ_TIMEOUT_SECONDS) + BACKOFF_SECONDS
CONFIG = Config(
    connect_timeout=CONNECT_TIMEOUT_SECONDS,
    read_timeout=READ_TIMEOUT_SECONDS,
    retries={"mode": "standard", "total_max_attempts": MAX_ATTEMPTS},
    user_agent=USER_AGENT,
)
