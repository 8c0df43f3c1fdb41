"""The bucket of the demo and of `make serve`: what two training runs have left in it."""

import json
from collections.abc import Iterator

# Transformers saves a folder for each checkpoint. The loss is best at step 2500.
MODEL = "llama-sft"
LOSSES = {
    500: 1.9,
    1000: 1.5,
    1500: 1.31,
    2000: 1.22,
    2500: 1.17,
    3000: 1.21,
    3500: 1.28,
    4000: 1.4,
}
FILES = {"config.json": 700, "model.safetensors": 900_000, "optimizer.pt": 1_800_000}
# Lightning saves a file.
OTHER_MODEL = "vit-base"
LIGHTNING_LOSSES = {200: 0.61, 400: 0.44, 600: 0.38}


def training_runs() -> Iterator[tuple[str, bytes]]:
    """Yield the key and the content of each object. They are much smaller than real ones."""
    logged: list[dict[str, float]] = []
    for step, loss in LOSSES.items():
        logged.append({"step": step, "eval_loss": loss})
        folder = f"{MODEL}/checkpoint-{step}"
        yield (
            f"{folder}/trainer_state.json",
            json.dumps({"global_step": step, "log_history": logged}).encode(),
        )
        for name, size in FILES.items():
            yield f"{folder}/{name}", bytes(size)
    for epoch, (step, loss) in enumerate(LIGHTNING_LOSSES.items()):
        yield (
            f"{OTHER_MODEL}/checkpoints/epoch={epoch}-step={step}-val_loss={loss}.ckpt",
            bytes(1_200_000),
        )
