"""Models of the server: each a trained prompt over a backbone, with the jobs that run on it."""

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch

from promptstage.callbacks.act.files import FILE as ACT_FILE
from promptstage.callbacks.act.files import FORMAT as ACT_FORMAT
from promptstage.callbacks.act.files import HeadSearch
from promptstage.composition.raw_texts import RawTexts
from promptstage.lightning_modules.backbone.attention_calibration import AttentionCalibration, CalibratedHeads
from promptstage.lightning_modules.backbone.loading import BackboneConfig, context_length
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.checkpoint_schema import described
from promptstage.lightning_modules.decoding.pool import Job, Pool
from promptstage.lightning_modules.saved_prompts import load_prompt, read_prompt
from promptstage.serving.conversations import Conversations
from promptstage.serving.corrected import CorrectedPool
from promptstage.utilities.errors import UserError
from promptstage.utilities.reading import read_typed

WINDOW = 1 << 20  # positions, if the backbone's configuration does not limit them


class Jobs(Protocol):
    """Jobs of a model, run step by step (see ``decoding.pool.Pool``)."""

    @property
    def busy(self) -> bool: ...
    def submit(self, job: Job) -> None: ...
    def step(self) -> list[Job]: ...
    def remove(self, jobs: Iterable[Job]) -> None: ...
    def clear(self) -> list[Job]: ...


@dataclass(eq=False)
class ServedModel:
    """Model of the server.

    Attributes:
        name: its name in requests.
        prompt: the trained prompt.
        jobs: the jobs that run on it.
        texts: tokenization, with a tokenizer of its own.
        conversations: rendering of conversations.
        most_positions: positions for prompt and generation, besides virtual tokens.
        corrects: it answers single questions by DPC, batch by batch.
        pending: number of generations that wait or run.
    """

    name: str
    prompt: SoftPromptModule
    jobs: Jobs
    texts: RawTexts
    conversations: Conversations
    most_positions: int
    corrects: bool = False
    pending: int = field(default=0)


def load_models(
    runs: Sequence[str], places: int, dpc: bool = False, act: str | None = None
) -> dict[str, ServedModel]:
    """Load prompts; those of the same backbone share it.

    Args:
        runs: run folders, checkpoints or saved prompts, or ``NAME=PATH``.
        places: number of generations of a model that run at a time.
        dpc: serve each prompt with DPC, too, as ``NAME-dpc``.
        act: ``act.json`` or the folder with one: serve each prompt with these heads calibrated, too, as
            ``NAME-act``.

    Raises:
        UserError: if a prompt cannot be loaded or served, or two have the same name.
    """
    paths: dict[str, str] = {}
    for run in runs:
        name, path = _named(run)
        if name in paths:
            raise UserError(f"two runs have the name '{name}': give NAME={path}")
        paths[name] = path
    configs = {name: _backbone_of(path) for name, path in paths.items()}
    shared: dict[str, Backbone] = {}
    models: dict[str, ServedModel] = {}
    for name, path in paths.items():
        key = repr(configs[name])
        several = [repr(config) for config in configs.values()].count(key) > 1
        if several and key not in shared:
            shared[key] = Backbone(configs[name])
        prompt = load_prompt(path, shared.get(key))
        assert isinstance(prompt, SoftPromptModule)
        for model in _variants(name, path, prompt, places, dpc, act):
            if model.name in models:
                raise UserError(f"two models have the name '{model.name}': give NAME=RUN")
            models[model.name] = model
    return models


def _named(run: str) -> tuple[str, str]:
    """Return the name and the path of a run as it was typed."""
    name, separator, path = run.partition("=")
    if not separator or Path(run).exists():
        folder = Path(run).expanduser().resolve()
        inside = folder.parent.name == "checkpoints"
        return (folder.parent.parent.name if inside else folder.name), run
    if not name or not path:
        raise UserError(f"runs must be RUN or NAME=RUN, got '{run}'")
    return name, path


def _backbone_of(path: str) -> BackboneConfig:
    contents, where = read_prompt(path)
    return described(contents, where).backbone_config(where)


def _variants(
    name: str, path: str, prompt: SoftPromptModule, places: int, dpc: bool, act: str | None
) -> list[ServedModel]:
    """Return a prompt as it was trained, and with DPC and ACT if they are asked for."""
    prompt.check_unchanged_attention("serve")
    if torch.cuda.is_available():
        prompt.to("cuda")
    backbone = prompt.backbone
    with torch.no_grad():
        prefix = prompt.evaluation_prefix()
    texts = RawTexts(prompt, deepcopy(backbone.tokenizer))
    conversations = Conversations(prompt, texts)
    window = context_length(prompt.backbone_config) or WINDOW
    most = window - (0 if prefix is None else prefix.num_positions)

    def model(suffix: str, jobs: Jobs) -> ServedModel:
        return ServedModel(name + suffix, prompt, jobs, texts, conversations, most, suffix == "-dpc")

    models = [model("", Pool(backbone, prefix, places))]
    if dpc:
        models.append(model("-dpc", CorrectedPool(prompt, path, places)))
    if act is not None:
        models.append(model("-act", _calibrated_pool(prompt, prefix, places, Path(act).expanduser())))
    return models


def _calibrated_pool(prompt: SoftPromptModule, prefix: Prefix | None, places: int, path: Path) -> Pool:
    """Return a pool whose attention is calibrated in the heads of an ``act.json``."""
    backbone = prompt.backbone
    file = path / ACT_FILE if path.is_dir() else path
    search = read_typed(HeadSearch, file, "heads file", ACT_FORMAT)
    backbone.check_belongs(f"heads file {file}", search.fingerprint, search.backbone)
    prompt.check_layers(str(file), list(search.heads))
    for layer, heads in search.heads.items():
        if not all(0 <= head < backbone.num_heads for head in heads):
            raise UserError(
                f"heads file {file} names heads {heads} of layer {layer}, but backbone "
                f"'{backbone.config.name}' has heads 0 to {backbone.num_heads - 1}"
            )
    settings = AttentionCalibration(search.heads, search.threshold, search.beta, search.soft_tokens)
    return Pool(backbone, prefix, places, [CalibratedHeads(settings)])
