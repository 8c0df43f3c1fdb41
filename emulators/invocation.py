"""The context of a Lambda invocation.

Import only small modules here, because many tests start a process that imports this one.
"""

import time
import uuid
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


def lambda_context(milliseconds: int = 29_000) -> "LambdaContext":
    """Return the context of an invocation that has this much time left from now on."""
    end = time.monotonic() + milliseconds / 1000
    context = SimpleNamespace(
        function_name="ApiFunction",
        function_version="$LATEST",
        memory_limit_in_mb=512,
        invoked_function_arn="arn:aws:lambda:us-east-1:123456789012:function:ApiFunction",
        aws_request_id=str(uuid.uuid4()),
        get_remaining_time_in_millis=lambda: max(0, int((end - time.monotonic()) * 1000)),
    )
    return cast("LambdaContext", context)
