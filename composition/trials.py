"""Trials of every method on a loaded backbone: which features work, and why others do not.

Each feature really runs, with tiny prompts on a few random tokens. Values mean nothing.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from promptstage.composition.trial_texts import NEW, ROOM, EndlessGreedy, NoTokenizer, sample_batch
from promptstage.datamodules.encoding import Batch
from promptstage.lightning_modules.backbone.attention_calibration import AttentionCalibration
from promptstage.lightning_modules.backbone.boundary import reason
from promptstage.lightning_modules.backbone.layer_states import pooled_outputs
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.text_reference import draw_tokens, middle_layer
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.decoding.act import ACTDecoder
from promptstage.lightning_modules.decoding.corruption import Corruption
from promptstage.lightning_modules.decoding.decoder import Decoder
from promptstage.lightning_modules.decoding.dpc import DPCDecoder
from promptstage.lightning_modules.dham import DHAM
from promptstage.lightning_modules.diagnosis import diagnose
from promptstage.lightning_modules.functional.cka import similarity_measure
from promptstage.lightning_modules.functional.partition import find_partition
from promptstage.lightning_modules.lora import LoRA
from promptstage.lightning_modules.prefix_tuning import PrefixTuning
from promptstage.lightning_modules.pretrained import Pretrained
from promptstage.lightning_modules.prompt_tuning import PromptTuning
from promptstage.utilities.errors import UserError

FEATURES = ("train", "generate", "saliency", "rollout", "DPC", "ACT", "partition", "checkpointing")
VIRTUAL, PROBES = 4, 8  # virtual tokens, texts of the partition
WORKS, NOT_APPLICABLE = "yes", "-"

Make = Callable[[Backbone], SoftPromptModule]


class Trial(NamedTuple):
    """Results of a method: for each of ``FEATURES`` ``WORKS``, ``NOT_APPLICABLE`` or a reason in one line."""

    method: str
    results: dict[str, str]


def methods(backbone: Backbone) -> dict[str, Make]:
    """Return the methods to try, by the names of their rows."""
    middle = middle_layer(backbone)
    stages = sorted({0, middle})
    prompt = partial(PromptTuning, num_virtual_tokens=VIRTUAL)
    dham = partial(DHAM, num_virtual_tokens=VIRTUAL, partition=stages)
    return {
        "Pretrained": Pretrained,
        "PromptTuning": prompt,
        f"late prompt, layer {middle}": partial(prompt, insert_at=middle),
        "PrefixTuning": partial(PrefixTuning, num_virtual_tokens=VIRTUAL),
        f"DHAM, {len(stages)} stages": dham,
        "DHAM, gate": partial(dham, gate=True),
        "LoRA": partial(LoRA, rank=2),
    }


def try_methods(backbone: Backbone) -> Iterator[Trial]:
    """Try the features of each method, one method at a time."""
    backbone.__dict__["tokenizer"] = NoTokenizer()
    batch = sample_batch(backbone)
    recomputing = _recomputing(backbone)
    for name, make in methods(backbone).items():
        yield Trial(name, dict(_try_features(make, backbone, recomputing, batch)))


def _recomputing(backbone: Backbone) -> Backbone | str:
    """Return the same model with gradient checkpointing, or the reason why there is none."""
    try:
        config = replace(backbone.config, gradient_checkpointing=True)
        recomputing = Backbone(config, backbone.model)
        recomputing.__dict__["tokenizer"] = backbone.tokenizer
        return recomputing
    except Exception as error:
        return reason(error)


def _try_features(
    make: Make, backbone: Backbone, recomputing: Backbone | str, batch: Batch
) -> Iterator[tuple[str, str]]:
    """Yield the features of one method with their results."""
    try:
        module = create_method(make, backbone)
    except Exception as error:
        staged = getattr(make, "func", make) is DHAM
        yield from (
            (name, reason(error) if staged or name != "partition" else NOT_APPLICABLE) for name in FEATURES
        )
        return
    trains, has_prompt = bool(module.trained_parameters()), bool(module.vectors())
    features: dict[str, tuple[bool, Callable[[], None]]] = {
        "train": (trains, lambda: _train(module, batch)),
        "generate": (True, lambda: _decode(module, EndlessGreedy(), batch)),
        "saliency": (has_prompt, lambda: _diagnose(module, batch)),
        "rollout": (has_prompt, lambda: _diagnose(module, batch, rollout=True)),
        "DPC": (has_prompt, lambda: _correct(module, batch)),
        "ACT": (True, lambda: _calibrate(module, batch)),
        "partition": (isinstance(module, DHAM), lambda: _partition(backbone)),
        "checkpointing": (trains, lambda: _recompute(make, backbone, recomputing, batch)),
    }
    for name in FEATURES:
        applies, run = features[name]
        yield name, _result(run) if applies else NOT_APPLICABLE


def _result(run: Callable[[], None]) -> str:
    try:
        run()
    except Exception as error:
        return reason(error)
    return WORKS


def create_method(make: Make, backbone: Backbone) -> SoftPromptModule:
    """Create a method's parameters, as at the start of a fit."""
    module = make(backbone)
    module.to(backbone.embedding.device)
    module.setup("fit")
    module.create_prompts()
    return module.to(backbone.embedding.device)


# --- features -----------------------------------------------------------------------------------------


def _gradients(module: SoftPromptModule, batch: Batch) -> list[Tensor]:
    """Compute the gradients of all trained parameters in a training step.

    Raises:
        UserError: if they are not finite, or all zero.
    """
    parameters = module.trained_parameters()
    with torch.enable_grad():
        loss = module.training_step(batch, 0)
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
    gradients = [
        torch.zeros_like(own) if part is None else part for own, part in zip(parameters, found, strict=True)
    ]
    if not all(bool(part.isfinite().all()) for part in (loss, *gradients)):
        raise UserError("loss or gradients are not finite")
    if not any(bool(part.any()) for part in gradients):
        raise UserError("no gradient reaches the trained parameters")
    return gradients


def _train(module: SoftPromptModule, batch: Batch) -> None:
    """Take one step of the method's optimizer."""
    parameters = module.trained_parameters()
    gradients = _gradients(module, batch)
    optimizer, _ = module.optimizer_config.build(parameters, 1)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()
    optimizer.zero_grad()
    if not all(bool(parameter.isfinite().all()) for parameter in parameters):
        raise UserError("parameters are not finite after a step")


def recomputed_difference(make: Make, backbone: Backbone, recomputing: Backbone, batch: Batch) -> float:
    """Compute by how much gradient checkpointing changes gradients, from the same start.

    Args:
        recomputing: the same model with gradient checkpointing.

    Returns:
        The largest difference, relative to the largest entry of the parameter's gradient.
    """
    expected, actual = (_gradients(create_method(make, own), batch) for own in (backbone, recomputing))
    return max(
        float((one - other).abs().max() / one.abs().max().clamp(min=1e-30))
        for one, other in zip(expected, actual, strict=True)
    )


def _recompute(make: Make, backbone: Backbone, recomputing: Backbone | str, batch: Batch) -> None:
    """Compare gradients with and without gradient checkpointing."""
    if isinstance(recomputing, str):
        raise UserError(recomputing)
    difference = recomputed_difference(make, backbone, recomputing, batch)
    if not difference <= (1e-3 if backbone.dtype in (torch.float32, torch.float64) else 0.1):
        raise UserError(
            f"gradients with gradient checkpointing differ by {difference:.2g} of the largest one"
        )


def _decode(module: SoftPromptModule, decoder: Decoder, batch: Batch) -> None:
    """Generate for a batch padded on the left.

    Raises:
        UserError: if a generation is shorter than requested.
    """
    module._shared_prefix = None  # of the parameters as they were
    with torch.no_grad():
        decoder.begin(module)
        records = decoder.generate(batch) + decoder.flush()
    lengths = [record.new_tokens for record in records]
    if lengths != [NEW] * len(batch):
        raise UserError(f"generations must have {NEW} tokens each, got {lengths}")


def _diagnose(module: SoftPromptModule, batch: Batch, rollout: bool = False) -> None:
    with torch.no_grad():
        prefix = module.prefix()
    names = [example.id for example in batch.examples]
    layers = list(module.backbone.attention_layers)
    diagnosis = diagnose(module.backbone, batch.gold, prefix, layers, names, rollout)
    if not bool(diagnosis.curve.isfinite().all()):
        raise UserError("saliency is not finite")


def _correct(module: SoftPromptModule, batch: Batch) -> None:
    """Correct both generations by Dynamic Prompt Corruption (DPC)."""
    corruption = Corruption()
    with torch.no_grad():
        prefix = module.prefix()
    assert prefix is not None
    module.backbone.check_attention("Dynamic Prompt Corruption", ())
    module.backbone.check_attention("shallow", corruption.layers(prefix))
    _decode(module, DPCDecoder(EndlessGreedy(), corruption, "all", None, len(batch)), batch)


def _calibrate(module: SoftPromptModule, batch: Batch) -> None:
    """Calibrate the attention of one head (ACT)."""
    backbone = module.backbone
    layer = max(backbone.attention_layers, default=0)
    backbone.check_attention("heads of ACT", [layer])
    _decode(module, ACTDecoder(EndlessGreedy(), AttentionCalibration({layer: [0]})), batch)


def _partition(backbone: Backbone) -> None:
    """Group the layers into two stages, by CKA of a few texts."""
    drawn = [draw_tokens(backbone, seed, ROOM) for seed in range(PROBES)]
    ids = torch.stack([torch.cat([prefix, rows[0]]) for prefix, rows in drawn])
    ends = torch.full((PROBES,), ids.shape[1], device=ids.device)
    features, examples = pooled_outputs(backbone, ids, ends)
    if not bool(features.isfinite().all()):
        raise UserError("features of layers are not finite")
    similarity = similarity_measure("cka", features.cpu(), False)
    find_partition(similarity, "cka", range(2, 3), examples.cpu(), resamples=0)
