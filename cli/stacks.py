"""Read the outputs of a deployed stack, and check its bucket."""

from http import HTTPStatus
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from cli.errors import CommandError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# Of the clients for AWS. DynamoDB throttles more than 1,000 writes a second to one model.
CONFIG = Config(retries={"mode": "standard", "total_max_attempts": 10})


class BucketAccessError(CommandError):
    """The bucket may exist, but these credentials cannot see it."""


def check_bucket(client: "S3Client", bucket: str) -> None:
    """Check that a bucket of artifacts exists.

    Its region can be another one: the client of ReclaimFunction finds it.

    Raises:
        BucketAccessError: S3 denies access. The role of ReclaimFunction may have it nevertheless.
        CommandError: there is no such bucket.
        BotoCoreError, ClientError: the call to AWS failed; `describe` returns a message.

    """
    try:
        client.head_bucket(Bucket=bucket)
    except ClientError as error:
        match error.response["ResponseMetadata"]["HTTPStatusCode"]:
            case HTTPStatus.NOT_FOUND:
                raise CommandError(f"There is no bucket {bucket!r} in S3.") from None
            case HTTPStatus.FORBIDDEN:
                raise BucketAccessError(
                    f"S3 denies access to the bucket {bucket!r}. Either the AWS credentials lack "
                    "the permission s3:ListBucket on it, or it belongs to another account. In that "
                    "case, its bucket policy must allow the role of ReclaimFunction to list and "
                    "delete objects."
                ) from None
        raise


def read_outputs(stack: str) -> dict[str, str]:
    """Return the outputs of a deployed stack by their keys.

    Raises:
        CommandError: there is no such stack in this account and region.
        BotoCoreError, ClientError: the call to AWS failed; `describe` returns a message.

    """
    client = boto3.client("cloudformation")
    try:
        (found,) = client.describe_stacks(StackName=stack)["Stacks"]
    except ClientError as error:
        if "does not exist" not in error.response["Error"]["Message"]:
            raise
        raise CommandError(
            f"There is no stack {stack!r} in the region {client.meta.region_name}. "
            "Name another stack, or set AWS_DEFAULT_REGION or AWS_PROFILE."
        ) from None
    return {output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", [])}


def output_of(stack: str, key: str, *, parameter: str | None = None) -> str:
    """Return an output of a deployed stack. Some outputs exist only if a parameter is set.

    Raises:
        CommandError: there is no such stack, or it has no such output.

    """
    outputs = read_outputs(stack)
    if key not in outputs:
        why = f"It was deployed without {parameter}." if parameter else "Is it a checkpoints stack?"
        raise CommandError(f"The stack {stack!r} has no output {key}. {why}")
    return outputs[key]
