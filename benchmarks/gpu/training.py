"""Training step of prompt tuning on the random backbone, beside prompt tuning and LoRA in PEFT.

All train float32 parameters in bfloat16 autocast with AdamW, on the same tokens with the same weights.
"""

import statistics
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.device import peak_bytes, time_actions
from benchmarks.gpu.random_backbone import GIB, SIZE, random_tokens
from benchmarks.gpu.report import Rows
from benchmarks.gpu.sections import Bench
from promptstage.command_line.footprint import USABLE
from promptstage.lightning_modules.backbone.exact_arithmetic import float32_arithmetic
from promptstage.lightning_modules.backbone.implementation import attention_implementation
from promptstage.lightning_modules.backbone.virtual_tokens import stage_prefix
from promptstage.lightning_modules.functional.footprint import (
    FLOAT32,
    prompt_parameters,
    step_activations,
    step_working,
)

LORA_RANK = 8
COMPARED = 2  # sequences
LOSS_BOUND, GRADIENT_BOUND = 1e-4, 1e-3

Losses = Callable[[], Tensor]


def initial_prompt(bench: Bench) -> Tensor:
    """Return the embeddings (m, d) of the first tokens in float32."""
    return bench.model.embedding[: bench.sizes.virtual_tokens].detach().float().clone()


def training(rows: Rows, bench: Bench) -> None:
    """Measure time and peak memory of a step of each method; compare loss and gradient with PEFT's."""
    step = bench.sizes.step
    ids = random_tokens(bench, step.sequences, step.length)
    own: tuple[Tensor, Tensor] | None = None
    with rows.attempt("prompt tuning, promptstage"):
        prompt = nn.Parameter(initial_prompt(bench))

        def loss(ids: Tensor = ids) -> Tensor:
            prefix = stage_prefix(bench.model, [0], [prompt])
            labels = _labels(ids)
            return bench.model.loss(ids, labels, prefix)[0] / (labels != -100).sum()

        own = _gradient(lambda: loss(ids[:COMPARED]), prompt)
        peak = _measure(rows, "prompt tuning, promptstage", loss, [prompt], bench)
        _compare_with_plan(rows, peak, bench)
    with rows.attempt("prompt tuning, PEFT"), _peft_prompt(bench) as (model, weight):
        if own is not None:
            theirs = _gradient(lambda: _peft_loss(model, ids[:COMPARED], bench), weight)
            for name, actual, expected, bound in zip(
                ("loss", "gradient of the prompt"), own, theirs, (LOSS_BOUND, GRADIENT_BOUND), strict=True
            ):
                difference = float((actual - expected).norm() / expected.norm())
                rows.check(f"{name} in float32 arithmetic, difference from PEFT's", difference, bound)
        _measure(rows, "prompt tuning, PEFT", lambda: _peft_loss(model, ids, bench), [weight], bench)
    with rows.attempt("LoRA, PEFT"), _peft_lora(bench) as model:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        _measure(rows, "LoRA, PEFT", lambda: _peft_loss(model, ids, bench), trained, bench)


def _labels(ids: Tensor) -> Tensor:
    """Label all tokens but the first of each row, which PEFT's last virtual token would predict."""
    labels = ids.clone()
    labels[:, 0] = -100
    return labels


def _peft_loss(model: Any, ids: Tensor, bench: Bench) -> Tensor:
    """Compute PEFT's mean cross-entropy; the backbone runs with PyTorch's fused attention."""
    with attention_implementation(bench.model.model, "sdpa"):
        return model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=_labels(ids)).loss


def _gradient(losses: Losses, parameter: nn.Parameter) -> tuple[Tensor, Tensor]:
    """Compute the loss and its gradient with respect to one parameter, in float32 arithmetic."""
    with float32_arithmetic():
        loss = losses()
        (gradient,) = torch.autograd.grad(loss, [parameter])
    return loss.detach(), gradient


def _measure(rows: Rows, name: str, losses: Losses, parameters: Iterable[nn.Parameter], bench: Bench) -> int:
    """Measure forward, backward and optimizer step; return the peak memory in bytes above the weights."""
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)

    def step() -> None:
        with torch.autocast(bench.device.type, torch.bfloat16):
            loss = losses()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()  # allocates the optimizer's state
    peak = peak_bytes(step, bench.device)
    seconds = time_actions({name: step}, bench.sizes.repeats, bench.device)[name]
    median, tokens = statistics.median(seconds), bench.sizes.step.tokens
    rows.measure(
        f"{name}: time of a step",
        f"{median:.3f} s ({min(seconds):.3f} to {max(seconds):.3f}), {tokens / median:,.0f} tokens/s",
        seconds=median,
        tokens_per_second=tokens / median,
    )
    rows.measure(f"{name}: peak memory of a step", f"{peak / GIB:.2f} GiB", bytes=peak)
    return peak


def _compare_with_plan(rows: Rows, peak: int, bench: Bench) -> None:
    """Compare the peak with that of ``promptstage footprint``, which leaves a tenth of a GPU for the rest."""
    shape, step, cuda = bench.sizes.shape, bench.sizes.step, bench.device.type == "cuda"
    gradients = prompt_parameters(shape, step.virtual_tokens) * FLOAT32
    plan = gradients + step_activations(shape, step, SIZE, repeated=cuda)
    plan += step_working(shape, step, SIZE, repeated=cuda)
    name = "prompt tuning, promptstage: peak memory ÷ plan"
    if cuda:
        rows.check(name, peak / plan, 1 / USABLE)
    else:  # the memory of a process, not of its tensors
        rows.measure(name, f"{peak / plan:.3g}", f"plan {plan / GIB:.2g} GiB", ratio=peak / plan)


@contextmanager
def _peft_prompt(bench: Bench) -> Iterator[tuple[Any, nn.Parameter]]:
    """Wrap the backbone in PEFT's prompt tuning, with the same initial prompt; yield model and prompt."""
    from peft import PromptTuningConfig, get_peft_model

    settings = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=bench.sizes.virtual_tokens)
    model: Any = get_peft_model(bench.model.model, settings)
    weight = model.prompt_encoder["default"].embedding.weight
    weight.data = initial_prompt(bench)
    yield model, weight


@contextmanager
def _peft_lora(bench: Bench) -> Iterator[Any]:
    """Insert PEFT's LoRA into the queries and values of the backbone, and remove it."""
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(task_type="CAUSAL_LM", r=LORA_RANK, target_modules=["q_proj", "v_proj"])
    model: Any = get_peft_model(bench.model.model, settings)
    try:
        yield model
    finally:
        model.unload()
