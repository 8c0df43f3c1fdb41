"""Import finds checkpoints in a list of keys, and leaves out what could be something else.

The names are those that the libraries write, as their public source has them.
"""

import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import combinations

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from checkpoints.reclaim.artifacts import Artifacts
from cli.errors import CommandError
from cli.import_plan import KnownRecords, sort_out
from cli.layouts import Finder, KnownNames, Pattern, Reason
from docs import first_cells
from emulators.aws import ROOT

NOW = datetime(2026, 5, 1, tzinfo=UTC)
RECORDS = ROOT / "docs" / "records.md"
STEP, OTHER = 500, 1_000

type Registered = tuple[str, int, str]  # model id, step, key


class Outcome:
    """What became of the keys."""

    def __init__(  # noqa: PLR0913 each test needs some
        self,
        keys: Iterable[str],
        *,
        pattern: str | None = None,
        prefix: str = "",
        records: Iterable[Registered] = (),
        dates: dict[str, datetime] | None = None,
        newest: datetime | None = None,
    ) -> None:
        known = KnownRecords("b")
        for model_id, step, key in records:
            known.add(model_id, step, f"s3://b/{key}")
        names = Pattern(pattern) if pattern else KnownNames()
        finder = Finder(names, prefix=prefix, registered=known.by_object)
        for key in sorted(keys):
            finder.add(key, 0 if key.endswith("/") else 10, (dates or {}).get(key, NOW))
        models = sort_out(finder.finish(), known, "b", newest=newest)
        self.new = {
            (model_id, each.step, each.key)
            for model_id, model in models.items()
            for each in model.new
        }
        self.names = {each.name for model in models.values() for each in model.new}
        self.sizes = {each.key: each.size for model in models.values() for each in model.new}
        self.registered = {each: model.registered for each, model in models.items()}
        self.left_out = {
            each.key: reason
            for model in models.values()
            for reason, left_out in model.left_out.items()
            for each in left_out
        }
        self.similar = finder.similar
        self.missing = finder.missing


# The source of each name, the path of the checkpoint, what the library writes there, and the id.
LIBRARIES = [
    (
        "huggingface/transformers trainer.py: f'{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}'",
        f"out/run 1/checkpoint-{STEP}/",
        ["model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"],
        "out/run 1",
    ),
    (
        "the same with DeepSpeed, whose step can differ: global_step{self.global_steps}",
        f"out/checkpoint-{STEP}/",
        [f"global_step{STEP - 1}/mp_rank_00_model_states.pt", "latest", "trainer_state.json"],
        "out",
    ),
    (
        "hiyouga/LLaMA-Factory src/llamafactory/v1/core/utils/checkpoint.py",
        f"saves/checkpoint-{STEP}/",
        ["CHECKPOINT_COMPLETE", "metadata.json"],
        "saves",
    ),
    (
        "huggingface/diffusers examples/**/train_*.py: f'checkpoint-{global_step}'",
        f"sd/checkpoint-{STEP}/",
        ["random_states_0.pkl", "scheduler.bin", "unet/diffusion_pytorch_model.safetensors"],
        "sd",
    ),
    (
        "Lightning-AI/pytorch-lightning model_checkpoint.py: '{epoch}-{step}' and .ckpt",
        f"lightning_logs/version_0/checkpoints/epoch=1-step={STEP}.ckpt",
        [],
        "lightning_logs/version_0",
    ),
    (
        "the same with a filename of the user: 'best-{epoch:02d}-{val_loss:.2f}-{step}'",
        f"été/best-epoch=01-val_loss=-0.25-step={STEP}.ckpt",
        [],
        "été",
    ),
    (
        "Lightning-AI/pytorch-lightning strategies/fsdp.py: a folder with meta.pt",
        f"a+b%20/checkpoints/epoch=1-step={STEP}.ckpt/",
        ["meta.pt", ".metadata", "__0_0.distcp"],
        "a+b%20",
    ),
    (
        "NVIDIA/NeMo megatron_gpt_config.yaml: filename",
        f"nemo/checkpoints/gpt--val_loss=1.23-step={STEP}-consumed_samples=64000.0.ckpt",
        [],
        "nemo",
    ),
    (
        "NVIDIA/NeMo nemo/lightning/pytorch/callbacks/model_checkpoint.py: a folder, weights/",
        f"nemo2/default--val_loss=1.23-step={STEP}-consumed_samples=64000.0/",
        ["weights/metadata.json", "context/model.yaml"],
        "nemo2",
    ),
    (
        "NVIDIA-NeMo/RL nemo_rl/utils/checkpoint.py: f'step_{step}' with training_info.json",
        f"grpo/step_{STEP}/",
        ["training_info.json", "policy/weights/model.safetensors"],
        "grpo",
    ),
    (
        "pytorch/torchtitan checkpointer/dcp.py: f'step-{step}'",
        f"outputs/checkpoint/step-{STEP}/",
        [".metadata", "__0_0.distcp"],
        "outputs",
    ),
    ("allenai/OLMo olmo/checkpoint.py: f'step{step}'", f"olmo/step{STEP}/", ["train.pt"], "olmo"),
    (
        "allenai/OLMo-core train/checkpoint.py: f'step{step}'",
        f"olmo2/step{STEP}/",
        [".metadata.json", "model_and_optim/.metadata"],
        "olmo2",
    ),
    (
        "NVIDIA/Megatron-LM checkpointing.py: 'iter_{:07d}'",
        f"gpt/iter_{STEP:07d}/",
        ["mp_rank_00/model_optim_rng.pt"],
        "gpt",
    ),
    (
        "deepspeedai/DeepSpeed runtime/engine.py: f'global_step{self.global_steps}'",
        f"ds/_actor/global_step{STEP}/",
        ["mp_rank_00_model_states.pt"],
        "ds/_actor",
    ),
    (
        "volcengine/verl ray_trainer.py: f'global_step_{self.global_steps}'",
        f"verl/global_step_{STEP}/",
        ["actor/model_world_size_1_rank_0.pt", "data.pt"],
        "verl",
    ),
    (
        "PrimeIntellect-ai/prime-rl utils/pathing.py: checkpoints/step_{step}",
        f"prime/checkpoints/step_{STEP}/",
        ["trainer/.metadata", "orchestrator/progress.pt"],
        "prime",
    ),
    (
        "OpenPipe/ART src/art/utils/output_dirs.py: models/{name}/checkpoints/{step:04d}",
        f"project/models/agent/checkpoints/{STEP:04d}/",
        ["adapter_model.safetensors"],
        "project/models/agent",
    ),
    (
        "Lightning-AI/litgpt pretrain.py: f'step-{state['step_count']:08d}'",
        f"lit/step-{STEP:08d}/",
        ["lit_model.pth", "model_config.yaml"],
        "lit",
    ),
    (
        "stanford-crfm/levanter checkpoint.py: f'step-{step}'",
        f"lev/checkpoints/abc/step-{STEP}/",
        ["metadata.json", "model/x"],
        "lev/checkpoints/abc",
    ),
    (
        "mosaicml/composer checkpoint_saver.py: 'ep{epoch}-ba{batch}-rank{rank}.pt'",
        f"mpt/ep0-ba{STEP}-rank0.pt",
        [],
        "mpt",
    ),
    (
        "mosaicml/composer checkpoint_saver.py: sharded, a folder",
        f"mpt/ep0-ba{STEP}/",
        [".metadata", "__0_0.distcp"],
        "mpt",
    ),
]


@pytest.mark.parametrize(
    ("path", "files", "model_id"), [case[1:] for case in LIBRARIES], ids=[c[0] for c in LIBRARIES]
)
def test_finds_the_checkpoints_of_each_library(path: str, files: list[str], model_id: str) -> None:
    digits = str(STEP)
    paths = {STEP: path, OTHER: path.replace(f"0{digits}", str(OTHER)).replace(digits, str(OTHER))}
    keys = [f"{each}{file}" for each in paths.values() for file in files or [""]]

    outcome = Outcome([*keys, f"{path.rpartition('/')[0]}/"])  # and the marker of a folder

    assert {(model_id, step, each) for step, each in paths.items()} == outcome.new
    assert {10 * max(len(files), 1)} == set(outcome.sizes.values())
    assert {} == outcome.left_out
    assert {} == outcome.similar


@pytest.mark.parametrize(
    ("reason", "key"),
    [
        (Reason.ANOTHER_NAME, "run/tmp-checkpoint-5/model.safetensors"),
        (Reason.ANOTHER_NAME, "run/checkpoint-5-backup/model.safetensors"),
        (Reason.ANOTHER_NAME, "run/step-5.backup/.metadata.pt"),
        (Reason.ANOTHER_NAME, "run/step_5-hf/model.safetensors"),
        (Reason.ANOTHER_NAME, "run/step5-unsharded/model.pt"),
        (Reason.ANOTHER_NAME, "run/5.checkpoint-5.orbax-checkpoint-tmp-1/x.pt"),
        (Reason.ANOTHER_NAME, "run/checkpoint_3/model.safetensors"),  # Accelerate counts its saves
        (Reason.ANOTHER_NAME, "run/checkpoint_2025-11-20_12-00-00.1/x.pt"),  # Ray: a time
        (Reason.ANOTHER_NAME, "run/epoch_3/model.pt"),  # torchtune
        (Reason.ANOTHER_NAME, "run/weights/epoch5.pt"),  # Ultralytics
        (Reason.ANOTHER_NAME, "run/checkpoint_1_500.pt"),  # fairseq
        (Reason.ANOTHER_NAME, "run/x-timestep=5/weights.pt"),
        (Reason.NO_STEP, "run/timestep=5.ckpt"),
        (Reason.ANOTHER_NAME, "run/iter_500/model.pt"),
        (Reason.STEP_FOLDER, "run/rollouts/step_5/rank_0.pt"),  # prime-rl
        *(
            (Reason.COPY, f"run/{name}.ckpt")
            for name in (
                *("last", "last-v1", "last-step=5", "best", "final"),
                *("gpt--step=5-last", "gpt--step=5-last-v1", "gpt--step=5-last-EMA"),
            )
        ),
        *(
            (Reason.ANOTHER_NAME, f"run/{path}")
            for path in (
                *("tmp-epoch=0-step=5.ckpt", "tmp_step=5.ckpt", "old_step=6.ckpt"),
                *("step=7-merged.ckpt", "step=7-hf-v1.ckpt", "step=7_evals.ckpt"),
                *("gpt--step=5-tmp/weights/a.pt", "gpt--step=7-hf/weights/a.pt"),
                *("gpt--step=10-unfinished/weights/a.pt", "x-step=8.ckpt.tmp/meta.pt"),
                *("x-step=9.orbax-checkpoint-tmp-1/weights/a.pt", "step=5-backup.ckpt/meta.pt"),
            )
        ),
        (Reason.NO_STEP, "run/epoch=3.ckpt"),
        (Reason.NO_STEP, "run/epoch=0-val_loss=0.9.ckpt"),
        (Reason.NO_STEP, "run/step=5-step=6.ckpt"),
        (Reason.NO_STEP, "run/step=5.5.ckpt"),
        (Reason.NUMBER, "run/005000/pretrained_model/model.safetensors"),  # LeRobot
        (Reason.NUMBER, "data/2025/11/20/shard.bin"),
        (Reason.NUMBER, "models/agent/trajectories/0005/x.pt"),
        (Reason.SEVERAL_FILES, "run/ckpt-7.index"),  # TensorFlow
        (None, "run/best/model.safetensors"),
        (None, "run/checkpoint-5"),
        (None, "run/traces/step=5/trace.json"),
    ],
)
def test_finds_nothing_under_other_names(reason: Reason | None, key: str) -> None:
    outcome = Outcome([key])

    assert set() == outcome.new
    assert {} == outcome.left_out
    counted = {each: count for each, (count, _) in outcome.similar.items()}
    assert ({reason: 1} if reason else {}) == counted


@pytest.mark.parametrize(
    ("keys", "new", "left_out"),
    [
        pytest.param(
            ["m/checkpoint-1/a.pt", "m/checkpoint-1/step1/b.pt", "m/checkpoint-1/last.ckpt"],
            {("m", 1, "m/checkpoint-1/")},
            {},
            id="the same step inside is a part of it",
        ),
        pytest.param(
            [f"m/step-1/checkpoint-{step}/a.pt" for step in (1, 2, 3)],
            {("m/step-1", step, f"m/step-1/checkpoint-{step}/") for step in (1, 2, 3)},
            {"m/step-1/": Reason.STAGE},
            id="several other steps inside: it is a stage, and they count",
        ),
        pytest.param(
            [f"m/step-1/epoch=0-step={step}.ckpt" for step in (2, 3)],
            {("m/step-1", step, f"m/step-1/epoch=0-step={step}.ckpt") for step in (2, 3)},
            {"m/step-1/": Reason.STAGE},
            id="the same with files",
        ),
        *(
            pytest.param(
                ["m/step-1/a.pt", *(f"m/step-1/{path}" for path in inside)],
                set(),
                {"m/step-1/": Reason.STAGE},
                id=f"a stage, though the names inside are not known: {inside[0]}",
            )
            for inside in (
                *(["epoch_1/model.pt", "epoch_2/model.pt"], ["epoch_1/last.ckpt", "epoch_2/a.pt"]),
                *(["epoch=3.ckpt", "epoch=4.ckpt", "last.ckpt"], ["1000/a.pt", "2000/a.pt"]),
                *(["a/step_1/a.pt", "b/step_2/a.pt"], ["ckpt-7.index", "ckpt-8.index"]),
            )
        ),
        *(
            pytest.param(
                [f"m/step-1/{path}" for path in inside],
                {("m", 1, "m/step-1/")},
                {},
                id=f"one checkpoint, though names inside are similar: {inside[0]}",
            )
            for inside in (
                *(["0/a.pt", "1/a.pt", "2/a.pt"], ["rank_0/a.pt", "rank_1/a.pt"]),
                *(["step1-rank0.pt", "step1-rank1.pt"], ["epoch_1/ckpt_2/a.pt"]),
                *(["model.ckpt", "optimizer.ckpt"], ["1000/info.json", "2000/info.json", "a.pt"]),
            )
        ),
        pytest.param(
            ["m/step-1/a.pt", "m/step-1/sub/checkpoint-2/a.pt"],
            set(),
            {"m/step-1/": Reason.NESTED, "m/step-1/sub/checkpoint-2/": Reason.NESTED},
            id="one other step inside: both are left out",
        ),
        pytest.param(
            ["m/checkpoint-1/sub/global_step2/a.pt"],
            set(),
            {
                "m/checkpoint-1/": Reason.NESTED,
                "m/checkpoint-1/sub/global_step2/": Reason.NESTED,
            },
            id="a folder of DeepSpeed that is not directly inside",
        ),
        pytest.param(
            ["m/checkpoint-1/a.pt", "m/checkpoints/checkpoint-01/a.pt", "m/checkpoint-2/a.pt"],
            {("m", 2, "m/checkpoint-2/")},
            {
                "m/checkpoint-1/": Reason.SAME_STEP,
                "m/checkpoints/checkpoint-01/": Reason.SAME_STEP,
            },
            id="two of one model and step",
        ),
        pytest.param(
            ["m/step=1.ckpt", "m/step=1-v1.ckpt"],
            set(),
            {"m/step=1.ckpt": Reason.SAME_STEP, "m/step=1-v1.ckpt": Reason.SAME_STEP},
            id="Lightning's second save of a step",
        ),
        pytest.param(
            ["m/step=1.ckpt", "m/step=1.ckpt/other", "n/step=1.ckpt", "n/step=1.ckpt/sub/"],
            set(),
            {
                "m/step=1.ckpt": Reason.INVALID_URI,
                "m/step=1.ckpt/": Reason.NO_WEIGHTS,
                "n/step=1.ckpt": Reason.INVALID_URI,
                "n/step=1.ckpt/": Reason.NO_WEIGHTS,
            },
            id="a file with a folder of its name, which ReclaimFunction refuses",
        ),
        pytest.param(
            [
                "m/ep0-ba1-rank0.pt",
                "m/ep0-ba1-rank1.pt",
                "m/ep0-ba1-rank10.pt",
                "m/ep0-ba2-rank1.pt",
            ],
            set(),
            {
                "m/ep0-ba1-rank0.pt": Reason.SEVERAL_RANKS,
                "m/ep0-ba2-rank1.pt": Reason.SEVERAL_RANKS,
            },
            id="one file for each rank",
        ),
        pytest.param(
            ["m /checkpoint-1/a.pt", "m/checkpoint-1/a.pt"],
            set(),
            {"m /checkpoint-1/": Reason.OVERLAP, "m/checkpoint-1/": Reason.OVERLAP},
            id="the same objects, if a space is ignored as ReclaimFunction does",
        ),
        pytest.param(
            [
                "checkpoint-1/a.pt",
                "/checkpoint-1/a.pt",
                "a//checkpoint-1/a.pt",
                "b/checkpoint-" + 130 * "1" + "/a.pt",
                "c\x1b[2J/checkpoint-1/a.pt",
            ],
            {("a/", 1, "a//checkpoint-1/")},
            {
                "checkpoint-1/": Reason.INVALID_MODEL,
                "/checkpoint-1/": Reason.INVALID_MODEL,
                "b/checkpoint-" + 130 * "1" + "/": Reason.INVALID_STEP,
                "c\x1b[2J/checkpoint-1/": Reason.INVALID_URI,
            },
            id="what cannot be a model, a step or a URI",
        ),
        pytest.param(
            [
                *("m/checkpoint-1/a.pt", "m/checkpoint-1/checkpoint-is-incomplete.txt"),
                *("m/gpt--step=2-unfinished", "m/gpt--step=2.ckpt"),
                *("m/gpt--step=3-unfinished", "m/gpt--step=3/weights/a"),
                *("m/gpt--step=7-unfinished", "m/gpt--step=7-EMA.ckpt"),
                *("m/checkpoint-4/a.pt", "m/checkpoint-4/sub/b.pt.sagemaker-uploading"),
                *("m/step=5.ckpt", "m/step=5.ckpt.sagemaker-uploading"),
                *("m/checkpoint-6/a.pt", "m/checkpoint-6/sub/checkpoint-is-incomplete.txt"),
            ],
            {("m", 6, "m/checkpoint-6/")},
            {
                "m/checkpoint-1/": Reason.UNFINISHED,
                "m/gpt--step=2.ckpt": Reason.UNFINISHED,
                "m/gpt--step=3/": Reason.UNFINISHED,
                "m/gpt--step=7-EMA.ckpt": Reason.UNFINISHED,
                "m/checkpoint-4/": Reason.UNFINISHED,
                "m/step=5.ckpt": Reason.UNFINISHED,
            },
            id="the marks of libraries for what is not finished",
        ),
        pytest.param(
            ["m/checkpoint-1/README.md", "m/checkpoint-2/", "m/checkpoint-3/sub/model.PT"],
            set(),
            {f"m/checkpoint-{step}/": Reason.NO_WEIGHTS for step in (1, 2, 3)},
            id="folders without weights",
        ),
    ],
)
def test_leaves_out_what_is_not_one_whole_checkpoint(
    keys: list[str], new: set[Registered], left_out: dict[str, Reason]
) -> None:
    outcome = Outcome(keys)

    assert new == outcome.new
    assert left_out == outcome.left_out
    assert {} == outcome.similar


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (("run", 1, "run/checkpoint-1/"), None),  # registered already
        (("run", 1, "elsewhere/"), Reason.HAS_RECORD),
        (("other", 1, "run/checkpoint-1/"), Reason.OVERLAPS_RECORD),
        (("other", 1, "run/checkpoint-1"), Reason.OVERLAPS_RECORD),
        (("other", 1, "run/checkpoint-1/model.safetensors"), Reason.OVERLAPS_RECORD),
        (("run", 2, "run/"), Reason.OVERLAPS_RECORD),
        (("run", 2, "/"), Reason.OVERLAPS_RECORD),
    ],
)
def test_never_registers_objects_of_another_record(
    record: Registered, expected: Reason | None
) -> None:
    outcome = Outcome(["run/checkpoint-1/model.safetensors"], records=[record])

    assert set() == outcome.new
    assert ({"run/checkpoint-1/": expected} if expected else {}) == outcome.left_out
    assert (0 if expected else 1) == outcome.registered["run"]


def test_a_twin_of_a_registered_checkpoint_is_not_registered() -> None:
    outcome = Outcome(["m/step=5.ckpt", "m/step=5-v1.ckpt"], records=[("m", 5, "m/step=5.ckpt")])

    assert (set(), {"m": 1}) == (outcome.new, outcome.registered)
    assert {"m/step=5-v1.ckpt": Reason.HAS_RECORD} == outcome.left_out


def test_a_similar_path_is_not_the_same() -> None:
    records = [("run", 1, "run/checkpoint-1/"), ("other", 1, "run/checkpoint-1/0/")]

    outcome = Outcome(["run/checkpoint-10/model.pt"], records=records)

    assert {("run", 10, "run/checkpoint-10/")} == outcome.new


def test_a_checkpoint_waits_until_its_newest_object_is_old_enough() -> None:
    hour = timedelta(hours=1)
    dates = {"m/step1/b.pt": NOW - hour, "m/step2/b.pt": NOW - hour + timedelta(seconds=1)}
    keys = [f"m/step{step}/{name}.pt" for step in (1, 2) for name in "abc"]

    outcome = Outcome(keys, dates=dict.fromkeys(keys, NOW - 2 * hour) | dates, newest=NOW - hour)

    assert {("m", 1, "m/step1/")} == outcome.new
    assert {"m/step2/": Reason.TOO_YOUNG} == outcome.left_out


def test_the_id_is_the_whole_path_wherever_the_prefix_ends() -> None:
    keys = ["a/b/checkpoint-1/model.pt", "a/b/checkpoint-1/sub/global_step1/x.pt"]

    for prefix in ("", "a/", "a/b/"):
        assert {("a/b", 1, "a/b/checkpoint-1/")} == Outcome(keys, prefix=prefix).new
    # The rest of the checkpoint is not known here, or a mark beside it.
    for prefix in ("a/b/checkpoint-1/sub/", "a/b/checkpoint-1/"):
        outcome = Outcome([each for each in keys if each.startswith(prefix)], prefix=prefix)
        assert set() == outcome.new
        assert {"a/b/checkpoint-1/": Reason.NOT_WHOLE} == outcome.left_out


def test_tells_which_records_have_no_object() -> None:
    paths = ["gone/", "gone.ckpt", "empty/", "there/", "there.ckpt", "no-slash", "above/", ""]
    keys = ["above/below/a", "empty/", "no-slash/a", "there.ckpt", "there/", "there/sub/a"]

    outcome = Outcome(keys, records=[("m", step, path) for step, path in enumerate(paths)])

    assert {"gone/", "gone.ckpt", "empty/"} == outcome.missing


SEGMENTS = st.sampled_from(
    (
        *("a", "a ", "", "checkpoints", "checkpoint-1", "checkpoint-01", "step-1", "step-2"),
        *("step3", "global_step2", "step_1", "step=1.ckpt", "step=2.ckpt", "ep0-ba1-rank0.pt"),
        *("x.pt", "12"),
    )
)
KEYS = st.lists(SEGMENTS, min_size=1, max_size=6).map("/".join).filter(bool)


@given(st.sets(KEYS, max_size=30), st.sets(KEYS, max_size=3), st.booleans())
def test_never_registers_objects_twice_in_any_tree(
    keys: set[str], registered: set[str], has_pattern: bool
) -> None:
    records = [("r", step, path) for step, path in enumerate(registered)]
    pattern = "{model}/step-{step}/" if has_pattern else None

    outcome = Outcome(keys, records=records, pattern=pattern)

    new = [Artifacts("b", key) for _, _, key in outcome.new]
    others = [Artifacts("b", path) for path in registered]
    assert not any(one.overlap(other) for one, other in combinations(new, 2))
    assert not any(one.overlap(other) for one in new for other in others)
    assert len(new) == len({(model_id, step) for model_id, step, _ in outcome.new})
    for each in new:
        objects = {key for key in keys if each.include(key) and not key.endswith("/")}
        assert 10 * len(objects) == outcome.sizes[each.key] > 0


@pytest.mark.parametrize(
    ("pattern", "keys", "new"),
    [
        ("{model}/{step}/", ["a/b/005/x"], {("a/b", 5, "a/b/005/")}),
        (
            "runs/{model}/ckpt_{step}.*",
            ["runs/é +%/ckpt_7.pt"],
            {("é +%", 7, "runs/é +%/ckpt_7.pt")},
        ),
        ("*/{model}/epoch_{step}_*/", ["x/a/b/epoch_3_x/y/z"], {("a/b", 3, "x/a/b/epoch_3_x/")}),
        ("{model}/*{step}.pt", ["m/epoch10.pt"], {("m", 10, "m/epoch10.pt")}),
        ("{model}/ckpt*{step}/", ["m/ckpt-2025-123/x"], {("m", 123, "m/ckpt-2025-123/")}),
        ("{model}/*-{step}*/", ["m/a-12-b/x"], {("m", 12, "m/a-12-b/")}),
        (
            "{model}/lightning_logs/version_0/checkpoints/*step={step}.ckpt",  # of the docs
            ["exp/lightning_logs/version_0/checkpoints/epoch=1-step=500.ckpt"],
            {("exp", 500, "exp/lightning_logs/version_0/checkpoints/epoch=1-step=500.ckpt")},
        ),
        ("*a*/{model}/*b*c{step}*.*", ["xax/m/abcbc7.ab"], {("m", 7, "xax/m/abcbc7.ab")}),
        ("{model}/{step}/", ["a/b/checkpoint-5/model.pt", "a/5x/y", "7/y"], set()),
        ("{model}/1{step}*.pt", ["m/12.pt"], set()),
        ("{model}/{step}*5.pt", ["m/125.pt"], set()),
        ("{model}/{step}.pt", ["a/5.ptx", "a/5.pt/x"], set()),
        ("{model}/v1.0/{step}/", ["a/v1x0/5/x"], set()),
    ],
)
def test_a_pattern_replaces_the_known_names(
    pattern: str, keys: list[str], new: set[Registered]
) -> None:
    assert new == Outcome(keys, pattern=pattern).new


def test_a_pattern_with_many_wildcards_is_fast() -> None:
    pattern = "*a*a*a/{model}/*a*a*a*{step}*a*a*b"
    keys = ["a/" * 511 + "a", "aa/aaa/" + "a" * 1_000, "aaa/m/aaa" + "1a" * 500, "a1/" * 340]
    start = time.process_time()

    assert set() == Outcome(keys, pattern=pattern).new

    assert time.process_time() - start < 1


def test_what_a_pattern_finds_may_not_overlap_either() -> None:
    outcome = Outcome(["a/5/7/x", "b/5/5/x"], pattern="{model}/{step}/")

    assert {("b", 5, "b/5/")} == outcome.new
    assert {"a/5/": Reason.NESTED, "a/5/7/": Reason.NESTED} == outcome.left_out


@pytest.mark.parametrize(
    "pattern",
    [
        *("", "{step}/", "{model}/", "a{model}/{step}/", "{model}/{model}/{step}/"),
        *("{model}/{step}/{step}/", "{model}/{other}/{step}/"),
    ],
)
def test_refuses_a_pattern_that_says_too_little(pattern: str) -> None:
    with pytest.raises(typer.BadParameter):
        Pattern(pattern)


def test_refuses_a_list_that_is_not_sorted() -> None:
    finder = Finder(KnownNames())
    finder.add("b", 1, NOW)

    for key in ("a", "b"):
        with pytest.raises(CommandError, match="directory bucket"):
            finder.add(key, 1, NOW)


def test_reads_100_000_objects_in_seconds() -> None:
    keys = [
        f"runs/{run:02}/checkpoint-{step}/model-{part:05}.safetensors"
        for run in range(50)
        for step in range(200)
        for part in range(10)
    ]
    start = time.process_time()

    assert 10_000 == len(Outcome(keys).new)

    assert time.process_time() - start < 10


def test_the_docs_list_the_names() -> None:
    names = {
        name
        for _, path, files, _ in LIBRARIES
        for name in Outcome([f"{path}{file}" for file in files or [""]]).names
    }

    assert names == first_cells(RECORDS, "### Names that are recognised"), "docs/records.md"
