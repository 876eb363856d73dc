"""Checks of every other method and feature on a backbone against independent references."""

import copy
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from promptstage.composition.trial_texts import sample_batch
from promptstage.composition.trials import create_method, methods, recomputed_difference
from promptstage.lightning_modules.backbone.decoder_layers import decoder_layers
from promptstage.lightning_modules.backbone.hooks import output_hooks
from promptstage.lightning_modules.backbone.layer_states import pooled_outputs
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.observation import attention_terms
from promptstage.lightning_modules.backbone.text_reference import middle_layer
from promptstage.lightning_modules.backbone.virtual_tokens import StageMode
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.dham import DHAM
from promptstage.lightning_modules.functional.saliency import saliency
from promptstage.lightning_modules.lora import LoRA
from promptstage.lightning_modules.prefix_tuning import PrefixTuning
from promptstage.lightning_modules.prompt_tuning import PromptTuning
from promptstage.utilities.errors import UserError
from scripts.family_checks import (
    PREFIX,
    Cell,
    Check,
    Subject,
    difference,
    prompt_prefix,
    stock_model,
    summed_loss,
)
from scripts.late_prompts import Layered, grown_logits
from scripts.slow_attention import SLOW, register_slow

WRITTEN_OUT = (
    "The reference is an attention written out that is given the keys and values; the model's own cache "
    "holds other tensors."
)
Reference = Callable[[Tensor], Tensor]
"""Computes the reference's logits (n, vocabulary) of a text (n,)."""
KeysValues = dict[int, tuple[Tensor, Tensor]]
"""For each layer with attention, keys and values (key-value heads, m, head dim)."""


def check_late_prompt(own: Subject) -> Cell:
    """Compare a prompt at the input of the middle layer."""
    layer = middle_layer(own.backbone)
    module = _created(own, partial(PromptTuning, num_virtual_tokens=PREFIX, insert_at=layer))
    return Cell(_check_stages(own, module, [layer], "accumulate"))


def check_stages(own: Subject, mode: StageMode) -> Cell:
    """Compare DHAM with two stages, of which the second starts at the middle layer."""
    starts = [0, middle_layer(own.backbone)]
    module = _created(own, partial(DHAM, num_virtual_tokens=PREFIX, partition=starts, mode=mode))
    return Cell(_check_stages(own, module, starts, mode))


def _check_stages(own: Subject, module: SoftPromptModule, starts: Sequence[int], mode: str) -> float:
    prompts = module.trained_parameters()
    if own.backbone.mixers:
        return _check_method(own, module, lambda row: grown_logits(own.stock, row, starts, prompts, mode))
    layered = Layered(own.stock)
    return _check_method(own, module, lambda row: layered.logits(row, starts, prompts, mode))


def check_prefix_tuning(own: Subject) -> Cell:
    """Compare trained keys and values with the same ones in the model's own cache, where it takes them."""
    module = _created(own, partial(PrefixTuning, num_virtual_tokens=PREFIX))
    assert isinstance(module, PrefixTuning)

    def keys_values() -> KeysValues:
        parts = list(module.trained_keys_values())
        pairs = zip(parts[::2], parts[1::2], strict=True)
        return dict(zip(own.backbone.attention_layers, pairs, strict=True))

    if _cache_takes(own, keys_values()):
        return Cell(_check_method(own, module, lambda row: _cached_logits(own, row, keys_values())))
    register_slow()
    slow = stock_model(own.folder, SLOW)

    def logits(row: Tensor) -> Tensor:
        positions = PREFIX + torch.arange(len(row))[None]
        return slow(input_ids=row[None], position_ids=positions, use_cache=False, given=keys_values()).logits[
            0
        ]

    return Cell(_check_method(own, module, logits), WRITTEN_OUT)


def _cache_takes(own: Subject, keys_values: KeysValues) -> bool:
    """Return whether the cache of transformers holds keys and values as they enter attention, by layer."""
    with torch.no_grad():
        layers = own.stock(input_ids=own.front[None], use_cache=True).past_key_values.layers
    cached = [[getattr(layer, name, None) for name in ("keys", "values")] for layer in layers]
    shapes = [[None if part is None else part[0].shape for part in parts] for parts in cached]
    return all(
        layer < len(shapes) and shapes[layer] == [part.shape for part in parts]
        for layer, parts in keys_values.items()
    )


def _cached_logits(own: Subject, row: Tensor, keys_values: KeysValues) -> Tensor:
    from transformers import DynamicCache

    cache = DynamicCache(config=own.stock.config)
    for layer, (keys, values) in keys_values.items():
        cache.update(keys[None], values[None], layer)
    return own.stock(
        input_ids=row[None],
        position_ids=PREFIX + torch.arange(len(row))[None],
        attention_mask=torch.ones(1, PREFIX + len(row), dtype=torch.long),
        past_key_values=cache,
        use_cache=True,
    ).logits[0]


def check_lora(own: Subject) -> Cell:
    """Compare the gradients of LoRA's parameters with those of peft in the model of transformers."""
    from peft import LoraConfig, inject_adapter_in_model

    module = _created(own, partial(LoRA, rank=2))
    assert isinstance(module, LoRA)
    trained = {
        name.replace("backbone.model.", "0.", 1): parameter
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }
    targets = sorted({name.partition(".lora_")[0] for name in trained})
    stock = copy.deepcopy(own.stock)
    wrapped = nn.ModuleList([stock])  # of a model with a configuration, peft may convert the targets
    inject_adapter_in_model(
        LoraConfig(r=module.rank, lora_alpha=module.alpha, target_modules=targets), wrapped
    )
    references = {name: parameter for name, parameter in wrapped.named_parameters() if ".lora_" in name}
    assert references.keys() == trained.keys()
    with torch.no_grad():
        for name, parameter in trained.items():
            references[name].copy_(parameter)
    losses = [summed_loss(stock(input_ids=row[None], use_cache=False).logits[0], row) for row in own.rows]
    total, each = module.backbone.loss(own.batch, own.labels)
    gradients = torch.autograd.grad(total, list(trained.values()))
    expected = torch.autograd.grad(torch.stack(losses).sum(), [references[name] for name in trained])
    pairs = [*zip(each.detach(), losses, strict=True), *zip(gradients, expected, strict=True)]
    return Cell(max(difference(*pair) for pair in pairs))


def _created(own: Subject, make: Callable[[Backbone], SoftPromptModule]) -> SoftPromptModule:
    """Create a method, and move its parameters away from their start, which is zero for LoRA."""
    module = create_method(make, own.backbone)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.trained_parameters():
            scale = 0.3 * float(parameter.std()) or 0.1
            parameter.add_(scale * torch.randn(parameter.shape, generator=draw))
    return module


def _check_method(own: Subject, module: SoftPromptModule, logits: Reference) -> float:
    """Compare logits, losses of packed texts and gradients of a method's parameters."""
    parameters = module.trained_parameters()
    expected = [logits(row) for row in own.rows]
    losses = [summed_loss(part, row) for part, row in zip(expected, own.rows, strict=True)]
    total, each = own.backbone.loss(own.batch, own.labels, module.prefix())
    gradients = torch.autograd.grad(total, parameters)
    references = torch.autograd.grad(torch.stack(losses).sum(), parameters)
    pairs = [*zip(each.detach(), losses, strict=True), *zip(gradients, references, strict=True)]
    with torch.no_grad():
        prefix = module.prefix()
        pairs += [
            (own.backbone(row[None], prefix)[0], part) for row, part in zip(own.rows, expected, strict=True)
        ]
        return max(difference(*pair) for pair in pairs)


# --- features, saliency, gradient checkpointing -------------------------------------------------------


def check_features(own: Subject) -> Cell:
    """Compare the features for CKA with the outputs of the reference's blocks, one text at a time."""
    lengths = torch.tensor([len(row) for row in own.rows])
    features, _ = pooled_outputs(own.backbone, own.batch, lengths)
    active = getattr(own.stock.config.get_text_config(), "altup_active_idx", 0)
    differences = []
    for i, row in enumerate(own.rows):
        outputs: list[Tensor] = []
        blocks = decoder_layers(own.stock, own.backbone.num_layers)
        with torch.no_grad(), output_hooks((block, outputs.append) for block in blocks):
            own.stock(input_ids=row[None], use_cache=False)
        for layer, states in enumerate(outputs):
            stream = states if states.ndim == 3 else states[active]
            differences.append(difference(features[layer, i], stream[0, 1:].mean(0)))
    return Cell(max(differences))


def check_saliency(own: Subject) -> Cell:
    """Compare the saliency of every layer with attention with gradients of the reference's weights."""
    layers = own.backbone.attention_layers
    terms, _ = attention_terms(own.backbone, own.batch, own.labels, layers, prompt_prefix(own)[1].detach())
    differences = []
    for i, row in enumerate(own.rows):
        text = torch.cat([own.front, row])
        output = own.stock(input_ids=text[None], use_cache=False, output_attentions=True)
        weights = [part for part in output.attentions if part is not None]
        gradients = torch.autograd.grad(summed_loss(output.logits[0, PREFIX:], row), weights)
        for layer, weight, gradient in zip(layers, weights, gradients, strict=True):
            expected = (weight.detach() * gradient).sum(1)[0, PREFIX:].abs()
            actual = saliency(terms[layer])[i, : len(row), : len(text)]
            differences.append(difference(actual, expected))
    return Cell(max(differences))


def check_recomputation(own: Subject) -> Cell:
    """Compare every method's gradients with and without gradient checkpointing."""
    if isinstance(own.recomputing, str):
        raise UserError(own.recomputing)
    batch = sample_batch(own.backbone)
    trained = {name: make for name, make in methods(own.backbone).items() if name != "Pretrained"}
    if own.backbone.mixers:
        del trained["DHAM, gate"]
    return Cell(
        max(recomputed_difference(make, own.backbone, own.recomputing, batch) for make in trained.values())
    )


METHOD_CHECKS: dict[str, Check] = {
    "late prompt": check_late_prompt,
    "DHAM": partial(check_stages, mode="accumulate"),
    "DHAM, replace": partial(check_stages, mode="replace"),
    "CKA": check_features,
    "PrefixTuning": check_prefix_tuning,
    "checkpointing": check_recomputation,
    "saliency": check_saliency,
    "LoRA": check_lora,
}
"""Checks of the families that have a row of their own, by column."""
