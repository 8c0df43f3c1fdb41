"""Read the outputs of a deployed stack, and describe errors of AWS."""

import os
import re
import sys
import traceback
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING

import boto3
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
    ProfileNotFound,
    SSLError,
)

from emulators.aws import AwsEmulatorError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

EXPIRED_CREDENTIALS = "The AWS credentials have expired. Log in again, or set AWS_PROFILE."
INVALID_CREDENTIALS = "AWS does not accept the credentials. Log in again, or set AWS_PROFILE."
CREDENTIAL_ERRORS = {
    "ExpiredToken": EXPIRED_CREDENTIALS,
    "ExpiredTokenException": EXPIRED_CREDENTIALS,
    "InvalidClientTokenId": INVALID_CREDENTIALS,
    "InvalidSignatureException": INVALID_CREDENTIALS,
    "SignatureDoesNotMatch": INVALID_CREDENTIALS,
    "UnrecognizedClientException": INVALID_CREDENTIALS,
}


class UsageError(Exception):
    """The command cannot do what was asked; the message says why, and what to do."""


class BucketAccessError(UsageError):
    """The bucket may exist, but these credentials cannot see it."""


def check_bucket(client: "S3Client", bucket: str) -> None:
    """Check that a bucket of artifacts exists.

    Its region can be another one: the client of the function finds it.

    Raises:
        BucketAccessError: S3 denies access. The function's role may have it nevertheless.
        UsageError: there is no such bucket.
        BotoCoreError, ClientError: the call to AWS failed; `describe` returns a message.

    """
    try:
        client.head_bucket(Bucket=bucket)
    except ClientError as error:
        match error.response["ResponseMetadata"]["HTTPStatusCode"]:
            case HTTPStatus.NOT_FOUND:
                raise UsageError(f"There is no bucket {bucket!r} in S3.") from None
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
        UsageError: there is no such stack in this account and region.
        BotoCoreError, ClientError: the call to AWS failed; `describe` returns a message.

    """
    client = boto3.client("cloudformation")
    try:
        (found,) = client.describe_stacks(StackName=stack)["Stacks"]
    except ClientError as error:
        if "does not exist" not in error.response["Error"]["Message"]:
            raise
        raise UsageError(
            f"There is no stack {stack!r} in the region {client.meta.region_name}. "
            "Name another stack, or set AWS_DEFAULT_REGION or AWS_PROFILE."
        ) from None
    return {output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", [])}


def output_of(stack: str, key: str, *, parameter: str | None = None) -> str:
    """Return an output of a deployed stack. Some outputs exist only if a parameter is set.

    Raises:
        UsageError: there is no such stack, or it has no such output.

    """
    outputs = read_outputs(stack)
    if key not in outputs:
        why = f"It was deployed without {parameter}." if parameter else "Is it a checkpoints stack?"
        raise UsageError(f"The stack {stack!r} has no output {key}. {why}")
    return outputs[key]


def report_errors(name: str, work: Callable[[], int], *, is_repeatable: bool = False) -> int:
    """Run a command, and return its exit code.

    If it fails because of a wrong use, a wrong setting or an error of AWS, print why, and return 1.
    """
    for variable in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        if not os.environ.get(variable, "").strip():  # boto3 would take it for a region
            os.environ.pop(variable, None)
    try:
        return work()
    except (UsageError, AwsEmulatorError) as error:
        message = str(error)
    except (BotoCoreError, ClientError) as error:
        message = describe(error)
    except Exception as error:
        if not _is_raised_by_boto3(error):
            raise
        message = _describe_setting(error)
    except KeyboardInterrupt:
        if is_repeatable:
            print("It is safe to run the command again.", file=sys.stderr)
        raise
    message = re.sub(r"//[^/@\s]*@", "//", message)  # the password of an endpoint or a proxy
    print(f"{name}: {message}", file=sys.stderr)
    return 1


def _is_raised_by_boto3(error: Exception) -> bool:
    """Return whether it is raised in boto3, which raises built-in errors for some settings."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(frame.f_globals["__name__"].startswith("botocore.") for frame in frames)


def _describe_setting(error: Exception) -> str:
    """Return a message that names the variable with the wrong setting, or all that are set."""
    message = str(error).strip().rstrip(".") or type(error).__name__
    if "still expired" in message:  # credentials with an AWS_CREDENTIAL_EXPIRATION
        return EXPIRED_CREDENTIALS
    is_set = {key: value for key, value in sorted(os.environ.items()) if key.startswith("AWS_")}
    # boto3 quotes the value, or ends with it. Elsewhere, as in "base 10", it is there by chance.
    is_named = [
        key
        for key, value in is_set.items()
        if value and (repr(value) in message or message.endswith(f": {value}"))
    ]
    names = " and ".join(is_named) or ", ".join([*is_set, "and the AWS configuration files"])
    return f"An AWS setting is not valid: {message}. Check {names}."


def describe(error: BotoCoreError | ClientError) -> str:
    """Return a message that says why a call to AWS failed, and how to fix it."""
    message = str(error)
    match error:
        case NoRegionError():
            message = "No AWS region is set. Set AWS_DEFAULT_REGION, or AWS_PROFILE."
        case NoCredentialsError():
            message = "No AWS credentials were found. Set AWS_PROFILE, or log in."
        case ProfileNotFound():
            message = f"The AWS profile {error.kwargs['profile']!r} is not configured here."
        case EndpointConnectionError() | ConnectTimeoutError():
            message += ". Check the network, AWS_DEFAULT_REGION, and AWS_ENDPOINT_URL if set."
        case SSLError():
            message += ". Check AWS_ENDPOINT_URL and AWS_CA_BUNDLE, if they are set."
        case HTTPClientError() if "Invalid header value" in message:  # it contains the credentials
            message = "The AWS credentials contain a line break or another invalid character."
        case ClientError(response={"Error": {"Code": code, "Message": text}}):
            denied = f"The AWS credentials lack a permission. {text}"
            sentences = CREDENTIAL_ERRORS | {
                "AccessDenied": denied,
                "AccessDeniedException": denied,
            }
            message = sentences.get(code, message)
    return message
