"""Stages before fit: found once, kept in the checkpoint, reused, and refused where they do not belong."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from promptstage.lightning_modules import stage_search
from tests.cli.test_mistakes import assert_one_error, hashes
from tests.tiny_folder import QUIET, call, save_tiny_backbone

FIGURES = ["dendrogram", "silhouette", "similarity", "votes"]


def partition(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "partition.json").read_text(encoding="utf-8"))


def images(run: Path) -> dict[str, list[int]]:
    """Steps of TensorBoard's images by tag."""
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    return {tag: [image.step for image in events.Images(tag)] for tag in events.Tags()["images"]}


def test_partition_finds_stages_without_training(dham: list[str]) -> None:
    outcome = call("partition", *dham, "--run_dir=found")
    assert outcome.code == 0, outcome.err
    run = Path("found")
    names = {path.name for path in run.iterdir()}
    assert names == {"config.yaml", "partition.json", "tensorboard"} | {f"partition_{n}.png" for n in FIGURES}
    assert all((run / f"partition_{n}.png").read_bytes().startswith(b"\x89PNG") for n in FIGURES)
    assert images(run) == {f"partition/{name}": [0] for name in FIGURES}
    found = partition(run)
    assert sorted(layer for stage in found["stages"] for layer in stage) == [0, 1, 2, 3]
    assert sum(found["votes"].values()) == pytest.approx(1)
    assert (found["examples"], found["resamples"], found["method"]) == (12, 10, "cka")
    assert "parameters trained" not in outcome.err


def test_the_default_method_of_partition_is_dham(dham: list[str]) -> None:
    flags = [flag for flag in dham if flag != "--model=DHAM"]
    assert call("partition", *flags).code == 0
    assert partition(Path("runs/partition-letter_reversal"))["contiguous"]


def test_methods_without_stages_are_rejected(common: list[str], tmp_path: Path) -> None:
    outcome = call("partition", *common, f"--run_dir={tmp_path / 'none'}")
    assert_one_error(outcome, "model must be DHAM for partition, got PromptTuning")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("method", ["cka", "cosine", "euclidean"])
@pytest.mark.parametrize("contiguous", ["true", "false"])
def test_fit_trains_with_the_stages_it_finds(method: str, contiguous: str, dham: list[str]) -> None:
    flags = [*dham, f"--model.partition={method}", f"--model.search.contiguous={contiguous}"]
    outcome = call("fit", *flags, "--trainer.max_steps=1", "--run_dir=run")
    assert outcome.code == 0, outcome.err
    found = partition(Path("run"))
    assert (found["method"], found["contiguous"]) == (method, contiguous == "true")
    checkpoint = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["partition"]["starts"] == found["starts"]
    assert checkpoint["promptstage"]["structure"]["stages"] == found["stages_as_runs"]
    prompts = [key for key in checkpoint["state_dict"] if key.startswith("prompts.")]
    assert len(prompts) == len(found["stages"])


def test_stages_are_read_from_the_checkpoint(
    dham: list[str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    fit = [*dham, "--model.partition=cosine", "--run_dir=run", "--trainer.max_steps=2"]
    assert call("fit", *fit).code == 0
    before = hashes(Path("run"))
    found = partition(Path("run"))
    request.getfixturevalue("no_search")
    for subcommand in ("test", "validate"):
        outcome = call(subcommand, *QUIET, "--ckpt_path=run")
        assert outcome.code == 0, outcome.err
    outcome = call("predict", *QUIET, "--ckpt_path=run", stdin="planet\n")
    assert outcome.code == 0, outcome.err
    resumed = call("fit", *QUIET, "--ckpt_path=run", "--trainer.max_steps=3")
    assert resumed.code == 0, resumed.err
    checkpoint = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 3
    assert [list(stage) for stage in checkpoint["partition"]["stages"]] == found["stages"]
    after = hashes(Path("run"))
    assert {name: after[name] for name in before if "partition" in name} == {
        name: digest for name, digest in before.items() if "partition" in name
    }


def test_a_partition_file_is_reused(dham: list[str], request: pytest.FixtureRequest) -> None:
    assert call("partition", *dham, "--run_dir=found").code == 0
    request.getfixturevalue("no_search")
    flags = [*dham, "--model.partition=found/partition.json", "--trainer.max_steps=1", "--run_dir=run"]
    outcome = call("fit", *flags)
    assert outcome.code == 0, outcome.err
    assert partition(Path("run")) == partition(Path("found"))
    assert (Path("run") / "partition_similarity.png").is_file()
    shutil.rmtree("found")
    outcome = call("test", *QUIET, "--ckpt_path=run")  # the checkpoint holds it
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize("given", ["single", "uniform", "[0,3]"])
@pytest.mark.usefixtures("no_search")
def test_given_stages_need_no_search(given: str, dham: list[str]) -> None:
    outcome = call("fit", *dham, f"--model.partition={given}", "--trainer.max_steps=1", "--run_dir=run")
    assert outcome.code == 0, outcome.err
    found = partition(Path("run"))
    assert found["starts"] == {"single": [0], "uniform": [0, 1, 2, 3], "[0,3]": [0, 3]}[given]
    assert (found["similarity"], found["votes"]) == (None, None)
    assert not list(Path("run").glob("*.png"))


def test_a_fixed_number_of_stages(dham: list[str]) -> None:
    assert call("partition", *dham, "--model.num_stages=3", "--run_dir=found").code == 0
    assert partition(Path("found"))["why"] == "G = 3 was asked for"
    assert len(partition(Path("found"))["stages"]) == 3
    outcome = call("fit", *dham, "--model.partition=found/partition.json", "--model.num_stages=2")
    assert_one_error(outcome, "num_stages must be 3, as in the partition, got 2")


def test_another_backbone_is_refused(dham: list[str], tmp_path: Path) -> None:
    """Another depth, and the same depth with other weights."""
    assert call("partition", *dham, "--run_dir=found").code == 0
    outcome = call("fit", *dham, "--backbone.name=embedded", "--model.partition=found/partition.json")
    assert_one_error(outcome, "partition.json is of 4 layers, but backbone 'embedded' has 12")
    other = save_tiny_backbone(tmp_path / "other")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(other)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight += 1
    model.save_pretrained(other)
    outcome = call("fit", *dham, f"--backbone.name={other}", "--model.partition=found/partition.json")
    assert_one_error(outcome, "found/partition.json belongs to backbone '", f"not to '{other}'")
    # Nor does a partition in a checkpoint, which belongs to a backbone as a whole.
    assert call("fit", *dham, "--trainer.max_steps=1", "--run_dir=run").code == 0
    outcome = call("test", *QUIET, "--ckpt_path=run", f"--backbone.name={other}")
    assert_one_error(outcome, "belongs to backbone '", f"not to '{other}'")


BROKEN = {
    "nothing.json": (None, "partition file nothing.json does not exist"),
    "half.json": ('{"format": 1, "stag', "partition file half.json is not valid JSON"),
    "list.json": ("[1, 2]", "partition file list.json must be an object, got [1, 2]"),
    "empty.json": ('{"format": 1}', "partition file empty.json: field 'stages' is missing"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_damaged_file_is_rejected(name: str, dham: list[str]) -> None:
    text, message = BROKEN[name]
    if text is not None:
        Path(name).write_text(text, encoding="utf-8")
    assert_one_error(call("fit", *dham, f"--model.partition=./{name}"), message)
    assert not Path("runs").exists() or not list(Path("runs").iterdir())


def test_stages_with_a_missing_layer_are_rejected(dham: list[str]) -> None:
    assert call("partition", *dham, "--run_dir=found").code == 0
    values = partition(Path("found")) | {"stages": [[0, 1], [3]]}
    Path("gap.json").write_text(json.dumps(values), encoding="utf-8")
    outcome = call("fit", *dham, "--model.partition=gap.json")
    assert_one_error(outcome, "gap.json: stages must hold each layer from 0 on once")


EDITS = {
    "starts": ([0, 3], "field 'starts' must be [0, 2], as the stages, got [0, 3]"),
    "stages_as_runs": ("0 | 1-3", "field 'stages_as_runs' must be "),
    "similarity": ([[1.0, 2.0], [3.0, 4.0]], "similarity must be 4 rows of 4 finite numbers"),
    "boundary_votes": ({"1": 0.5}, "boundary_votes must name each layer but the first"),
    "format": (7, "has format 7, this version reads format 1"),
}


@pytest.mark.parametrize("field", EDITS)
def test_an_edited_file_is_rejected(field: str, dham: list[str]) -> None:
    assert call("partition", *dham, "--model.search.max_stages=2", "--run_dir=found").code == 0
    value, message = EDITS[field]
    values = partition(Path("found")) | {field: value}
    Path("edited.json").write_text(json.dumps(values), encoding="utf-8")
    assert_one_error(call("fit", *dham, "--model.partition=edited.json"), "edited.json: ", message)


OTHERWISE = [
    ("--model.partition=cosine", "partition must be 'cka' as in the checkpoint, whose"),
    ("--model.partition=[0,3]", "partition must be 'cka' as in the checkpoint, whose"),
    ("--model.num_stages=3", "num_stages must be null as in the checkpoint, whose"),
    ("--model.search.seed=4", "search.seed must be 0 as in the checkpoint, whose"),
]


def test_the_stages_of_a_trained_prompt_cannot_change(dham: list[str]) -> None:
    assert call("fit", *dham, "--trainer.max_steps=1", "--run_dir=run").code == 0
    before = hashes(Path("run"))
    for flag, message in OTHERWISE:
        fixed = f"{flag.partition('=')[0]} must be "
        for subcommand, part in (("fit", fixed), ("test", message)):
            assert_one_error(call(subcommand, *QUIET, "--ckpt_path=run", flag), part, "start a new fit")
    assert_one_error(call("partition", *dham, "--ckpt_path=run"), "partition takes no checkpoint")
    assert hashes(Path("run")) == before


@pytest.mark.parametrize("value", [torch.zeros(2), [torch.zeros(2)], {"a": torch.zeros(2)}], ids=str)
def test_a_tensor_among_a_checkpoints_options_is_refused(value: object, dham: list[str]) -> None:
    assert call("fit", *dham, "--trainer.max_steps=1", "--run_dir=run").code == 0
    path = Path("run/checkpoints/last.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["partition_source"]["search.resamples"] = value
    torch.save(checkpoint, path)
    test = call("test", *QUIET, f"--ckpt_path={path}")
    assert_one_error(test, "the checkpoint's entry 'partition_source'", "Tensor is not JSON serializable")


@pytest.mark.parametrize("stages", [1, 4])
@pytest.mark.parametrize("method", ["cka", "euclidean"])
def test_one_stage_and_one_stage_per_layer(stages: int, method: str, dham: list[str]) -> None:
    """Neither partition has a silhouette."""
    flags = [*dham, f"--model.num_stages={stages}", f"--model.partition={method}", "--run_dir=run"]
    outcome = call("fit", *flags, "--trainer.max_steps=1")
    assert outcome.code == 0, outcome.err
    assert len(partition(Path("run"))["stages"]) == stages


def test_partition_uses_questions_only(dham: list[str]) -> None:
    """Rationales and virtual tokens beyond the context do not matter, nor does fast_dev_run."""
    flags = [*dham, "--data.max_new_tokens=600", "--trainer.fast_dev_run=true", "--run_dir=found"]
    outcome = call("partition", *flags)
    assert outcome.code == 0, outcome.err
    assert not (Path("found") / "prompt.safetensors").exists()
    assert partition(Path("found"))["data"] == "letter_reversal"
    assert partition(Path("found"))["search"]["examples"] == 12


def test_a_run_folder_stands_for_its_partition_file(dham: list[str], request: pytest.FixtureRequest) -> None:
    assert call("partition", *dham, "--run_dir=found").code == 0
    request.getfixturevalue("no_search")
    outcome = call("fit", *dham, "--model.partition=found", "--trainer.max_steps=1", "--run_dir=run")
    assert outcome.code == 0, outcome.err
    assert partition(Path("run")) == partition(Path("found"))


def test_invalid_input_is_rejected(dham: list[str]) -> None:
    outcome = call("fit", *dham, "--model.search.examples=40")
    assert_one_error(
        outcome,
        "search.examples must be <= 32 (training examples of letter_reversal in use; option "
        "--model.search.examples), got 40",
    )
    outcome = call("fit", *dham, "--model.search.max_stages=4")
    assert_one_error(outcome, "search.max_stages must be <= 3 (the backbone has 4 layers), got 4")
    outcome = call("fit", *dham, "--model.num_stages=5")
    assert_one_error(outcome, "num_stages must be <= 4 (layers of the backbone), got 5")
    outcome = call("test", *dham)
    assert_one_error(
        outcome, "partition 'cka' is searched for at the start of fit", "give a checkpoint or a partition"
    )
    assert not Path("runs").exists() or not list(Path("runs").iterdir())


@pytest.mark.parametrize(("share", "warns"), [(0.5, True), (0.7, False)])
def test_split_votes_are_reported(
    share: float, warns: bool, dham: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = stage_search.find_partition

    def split(*args: Any, **kwargs: Any) -> Any:
        result = found(*args, **kwargs)
        votes = dict.fromkeys(result.votes, 1 - share) | {len(result.stages): share}
        return replace(result, votes=votes)

    monkeypatch.setattr(stage_search, "find_partition", split)
    lines: list[str] = []
    monkeypatch.setattr(stage_search, "rank_zero_info", lines.append)
    assert call("partition", *dham, "--run_dir=found").code == 0
    assert any("warning: only 50% of the resamples agree" in line for line in lines) == warns
