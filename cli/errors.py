"""Say in one sentence why a command failed, and how to fix it."""

import os
import re
import traceback

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


class CommandError(Exception):
    """The command cannot do what was asked; the message says why, and what to do."""


def explain(error: Exception) -> str | None:
    """Return the message for an error of the command, of AWS or of its settings, or None."""
    message = None
    match error:
        case CommandError():
            message = str(error)
        case BotoCoreError() | ClientError():
            message = describe(error)
        case _ if _is_raised_by_boto3(error):
            message = _describe_setting(error)
    # Without the password of an endpoint or a proxy.
    return message and re.sub(r"//[^/@\s]*@", "//", message)


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
        case ClientError(
            response={"Error": {"Code": "AccessDenied" | "AccessDeniedException", "Message": text}}
        ):
            message = f"The AWS credentials lack a permission. {text}"
        case ClientError(response={"Error": {"Code": code}}):
            message = CREDENTIAL_ERRORS.get(code, message)
    return message
