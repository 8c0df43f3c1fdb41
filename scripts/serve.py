"""Build the function and deploy the template to an AWS on this machine, and keep it running."""

import argparse
import sys
import time
from collections.abc import Iterator

from botocore.exceptions import BotoCoreError, ClientError

from emulators.cloud import LocalCloud, LocalCloudError, build, local_cloud
from emulators.records import put_checkpoints
from scripts import tokens
from scripts.terminal import say, stop_on_signals

ENTITY = "vision-team"
MODEL = "resnet-50"
STEPS = range(100, 1_001, 100)


def main() -> int:
    """Serve until interrupted; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="by default, one that is free")
    port = parser.parse_args().port
    stop_on_signals()
    try:
        say("Building the function")
        build()
        say("Starting the local cloud")
        with local_cloud(port) as cloud:
            _serve(cloud)
    except KeyboardInterrupt:
        say("Stopped; nothing is left running.")
    except (LocalCloudError, BotoCoreError, ClientError) as error:
        print(f"serve.py: {error}", file=sys.stderr)
        return 1
    return 0


def _serve(cloud: LocalCloud) -> None:
    say("Deploying the template")
    outputs = cloud.deploy()
    say("Issuing a token, and saving checkpoints")
    dynamodb = cloud.client("dynamodb")
    put_checkpoints(dynamodb, outputs["CheckpointsTableName"], MODEL, STEPS, entity=ENTITY)
    token = tokens.issue(
        dynamodb, outputs["TokensTableName"], entity=ENTITY, name="local", scopes=tokens.SCOPES
    )
    print(
        f"\n{MODEL} of {ENTITY} has checkpoints at {', '.join(map(str, STEPS))}. Delete some:\n\n"
        f"curl -X DELETE {outputs['ApiUrl']}/v1/preview/models/{MODEL}/checkpoints "
        f"-H 'Authorization: Bearer {token}' -d '{{\"steps\": [100, 200, 999]}}'\n\n"
        "The function's log follows. Ctrl-C stops everything.\n",
        flush=True,
    )
    for line in log_lines(cloud):
        print(line, flush=True)


def log_lines(cloud: LocalCloud) -> Iterator[str]:
    """Yield what the function logs, line by line, as it comes and for ever."""
    logs = cloud.client("logs")
    shown: dict[str, int] = {}
    while True:
        for group in logs.describe_log_groups()["logGroups"]:
            name = group["logGroupName"]
            pages = logs.get_paginator("filter_log_events").paginate(logGroupName=name)
            events = [event for page in pages for event in page["events"]]
            for event in events[shown.get(name, 0) :]:
                yield event["message"].rstrip()
            shown[name] = len(events)
        time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(main())
