"""Read the outputs of a deployed stack, and describe errors of AWS."""

import sys
from collections.abc import Callable

import boto3
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    NoRegionError,
    ProfileNotFound,
)

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


def report_errors(name: str, work: Callable[[], int]) -> int:
    """Run a command that is safe to repeat, and return its exit code.

    If it fails because of a wrong use or an error of AWS, print why, and return 1.
    """
    try:
        return work()
    except UsageError as error:
        print(f"{name}: {error}", file=sys.stderr)
    except (BotoCoreError, ClientError) as error:
        print(f"{name}: {describe(error)}", file=sys.stderr)
    except KeyboardInterrupt:
        print("It is safe to run the command again.", file=sys.stderr)
        raise
    return 1


def describe(error: BotoCoreError | ClientError) -> str:
    """Return a message that says why a call to AWS failed, and how to fix it."""
    match error:
        case NoRegionError():
            return "No AWS region is set. Set AWS_DEFAULT_REGION, or AWS_PROFILE."
        case NoCredentialsError():
            return "No AWS credentials were found. Set AWS_PROFILE, or log in."
        case ProfileNotFound():
            return f"The AWS profile {error.kwargs['profile']!r} is not configured here."
        case EndpointConnectionError() | ConnectTimeoutError():
            return f"{error}. Check the network, AWS_DEFAULT_REGION, and AWS_ENDPOINT_URL if set."
        case ClientError(response={"Error": {"Code": code, "Message": message}}):
            denied = f"The AWS credentials lack a permission. {message}"
            sentences = CREDENTIAL_ERRORS | {
                "AccessDenied": denied,
                "AccessDeniedException": denied,
            }
            return sentences.get(code, str(error))
    return str(error)
