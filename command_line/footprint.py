"""Tables of the memory and network traffic that a backbone and a prompt need."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptstage.lightning_modules.backbone.boundary import reading
from promptstage.lightning_modules.backbone.loading import BackboneConfig, read_config
from promptstage.lightning_modules.functional.footprint import (
    ATTENTION,
    LLAMA3_8B,
    SHAPES,
    WHOLE_BLOCKS,
    Shape,
    Step,
    block_parameters,
    block_weights,
    dequantized_matrix,
    gathered_weights,
    generation_cache,
    generation_working,
    gradient_traffic,
    lora_parameters,
    outside_parameters,
    parameters,
    prefix_tuning_parameters,
    prompt_parameters,
    resident_weights,
    ring,
    step_activations,
    step_working,
    trained_state,
)
from promptstage.utilities.errors import UserError

GPUS = (24, 40, 80)  # GiB
# Share of a GPU's memory; CUDA, buffers of libraries and fragmentation take the rest.
USABLE = 0.9
SIZES = {"bfloat16": 2, "float32": 4}


@dataclass(frozen=True)
class Layout:
    """Distribution of a backbone over GPUs.

    Attributes:
        name: name in the table.
        ranks: number of ranks that all-reduce gradients.
        shards: number of ranks that the decoder blocks are sharded over.
        checkpointing: activations of blocks are recomputed.
        four_bit: weights of blocks are NF4.
    """

    name: str
    ranks: int = 1
    shards: int = 1
    checkpointing: bool = False
    four_bit: bool = False


def layouts(ranks: int) -> list[Layout]:
    """Return the layouts in a model's table."""
    return [
        Layout("1 GPU"),
        Layout("1 GPU, checkpointing", checkpointing=True),
        Layout("1 GPU, 4-bit", four_bit=True),
        Layout("1 GPU, 4-bit, checkpointing", checkpointing=True, four_bit=True),
        Layout(f"{ranks} GPUs, replicated", ranks),
        Layout(f"{ranks} GPUs, replicated, checkpointing", ranks, checkpointing=True),
        Layout(f"{ranks} GPUs, sharded", ranks, ranks),
        Layout(f"{ranks} GPUs, sharded, checkpointing", ranks, ranks, checkpointing=True),
    ]


@dataclass(frozen=True)
class Memory:
    """Memory of each GPU in bytes.

    Attributes:
        weights: resident weights.
        gathered: blocks gathered from other ranks, or a dequantized matrix.
        prompt: trained parameters, gradients, DDP's bucket, state of AdamW.
        activations: saved for the backward pass.
        workspace: peak within a step.
        generation: prefix, cache and workspace of an evaluation batch.
    """

    weights: int
    gathered: int
    prompt: int
    activations: int
    workspace: int
    generation: int

    @property
    def training(self) -> int:
        """Total in training."""
        return self.weights + self.gathered + self.prompt + self.activations + self.workspace

    @property
    def inference(self) -> int:
        """Total in generation; the optimizer's state stays in memory."""
        return self.weights + self.gathered + self.prompt + self.generation


def memory(
    shape: Shape, layout: Layout, step: Step, size: int, questions: int, question: int, new_tokens: int
) -> Memory:
    """Compute the memory of each GPU in a layout.

    Args:
        size: bytes per weight or activation.
        questions: number of questions in an evaluation batch.
        question: number of tokens of a question.
        new_tokens: number of tokens generated for each question.
    """
    gathered = 0
    if layout.four_bit:
        gathered = dequantized_matrix(shape, size)
    elif layout.shards > 1:
        gathered = WHOLE_BLOCKS * block_weights(shape, size)
    columns = step.virtual_tokens + question + new_tokens
    generation = generation_cache(shape, 1, step.virtual_tokens, size)
    generation += generation_cache(shape, questions, columns, size)
    generation += generation_working(shape, questions, question, size)
    return Memory(
        resident_weights(shape, size, layout.shards, layout.four_bit),
        gathered,
        trained_state(prompt_parameters(shape, step.virtual_tokens), layout.ranks),
        step_activations(shape, step, size, layout.checkpointing),
        step_working(shape, step, size, layout.checkpointing),
        generation,
    )


def fits(need: int) -> str:
    """Return the smallest GPU that is large enough."""
    return next((f"{gpu} GB" for gpu in GPUS if need <= USABLE * gpu * 2**30), "none")


def shape_of(backbone: str) -> Shape:
    """Return the shape of a name in ``SHAPES``, a hub id, a folder or a GGUF file; weights are not read.

    Raises:
        UserError: if there is no such model, or its blocks are not Llama's.
    """
    if backbone in SHAPES:
        return SHAPES[backbone]
    import torch
    from transformers import AutoModelForCausalLM

    path = Path(backbone)
    is_gguf = path.suffix == ".gguf"
    source = BackboneConfig(str(path.parent), gguf_file=path.name) if is_gguf else BackboneConfig(backbone)
    config: Any = read_config(source)
    with reading(backbone), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return shape_of_model(backbone, config, sum(parameter.numel() for parameter in model.parameters()))


def shape_of_model(backbone: str, config: Any, counted: int) -> Shape:
    """Return the shape of the model that a configuration describes.

    Args:
        backbone: its name, for the message.
        counted: number of the model's parameters.

    Raises:
        UserError: if its blocks are not Llama's.
    """
    text = config.get_text_config()
    heads = getattr(text, "num_attention_heads", None) or 1
    for bias in (False, True):
        shape = Shape(
            text.hidden_size,
            text.num_hidden_layers,
            heads,
            _setting(text, "num_key_value_heads") or heads,
            _setting(text, "head_dim") or text.hidden_size // heads,
            _setting(text, "intermediate_size") or 4 * text.hidden_size,
            text.vocab_size,
            config.tie_word_embeddings,
            bias,
        )
        if parameters(shape) == counted:
            return shape
    raise UserError(
        f"backbone '{backbone}' ({config.model_type}) must have Llama's blocks: a Llama of its widths has "
        f"{parameters(shape):,} parameters, got {counted:,}"
    )


def _setting(config: Any, name: str) -> int | None:
    """Return a number of all layers in a configuration; None if it has none, or one for each layer."""
    try:
        value = getattr(config, name, None)
    except Exception:  # Gemma 4 raises more than AttributeError for what differs between layers
        return None
    return value if isinstance(value, int) else None


def gib(value: int) -> str:
    """Format bytes in GiB."""
    digits = 0 if value == 0 else 1 if value >= 2**30 / 10 else 3
    return f"{value / 2**30:.{digits}f}"


def mib(value: int) -> str:
    """Format bytes in MiB."""
    return f"{value / 2**20:,.2f} MiB"


def print_memory(name: str, shape: Shape, args: argparse.Namespace) -> None:
    """Print a model's table of memory."""
    size, full = SIZES[args.dtype], args.batch_size * args.length
    step = Step(args.batch_size, args.length, args.virtual_tokens, full, full)
    print(
        f"\n{name}: {parameters(shape):,} parameters, {shape.num_layers} blocks of "
        f"{block_parameters(shape):,} and {outside_parameters(shape):,} outside\n"
    )
    parts = "weights | gathered | prompt | activations | workspace"
    print(f"| | {parts} | training | fits on | generation | inference | fits on |")
    print("| --- |" + " --- |" * 10)
    for layout in layouts(args.ranks):
        need = memory(shape, layout, step, size, args.eval_batch_size, args.question, args.new_tokens)
        training = (need.weights, need.gathered, need.prompt, need.activations, need.workspace, need.training)
        print(
            f"| {layout.name} | {' | '.join(map(gib, training))} | {fits(need.training)} "
            f"| {gib(need.generation)} | {gib(need.inference)} | {fits(need.inference)} |"
        )


def print_gathered(shapes: dict[str, Shape], args: argparse.Namespace) -> None:
    """Print a table of the weights that ranks receive when blocks are sharded."""
    size = SIZES[args.dtype]
    print(f"\nWeights received by each of {args.ranks} ranks that share the blocks (GiB)\n")
    print("| | micro-batch, prompt tuning or DHAM | micro-batch, prefix tuning or LoRA | decoded token |")
    print("| --- | --- | --- | --- |")
    for name, shape in shapes.items():
        passes = (gib(gathered_weights(shape, size, args.ranks, number)) for number in (4, 2, 1))
        print(f"| {name} | {' | '.join(passes)} |")


def print_gradients(name: str, shape: Shape, args: argparse.Namespace) -> None:
    """Print a table of the gradients that methods all-reduce."""
    m, attention = args.virtual_tokens, [ATTENTION[0], ATTENTION[2]]
    methods = {
        f"prompt tuning, {m} virtual tokens": prompt_parameters(shape, m),
        "DHAM, 64 virtual tokens over 4 stages": prompt_parameters(shape, 64),
        f"prefix tuning, {m} virtual tokens": prefix_tuning_parameters(shape, m),
    }
    for matrices, names in (("queries and values", attention), ("all linear layers", list(shape.matrices))):
        for rank in (8, 16):
            methods[f"LoRA, rank {rank}, {matrices}"] = lora_parameters(shape, rank, names)
    methods["full fine-tuning"] = parameters(shape)
    least = prompt_parameters(shape, m)
    print(f"\nGradients of {name}, float32, in an optimizer step of {args.ranks} ranks\n")
    print("| | trained | all-reduced | sent by each in a ring | × prompt tuning |")
    print("| --- | --- | --- | --- | --- |")
    for method, trained in methods.items():
        payload = gradient_traffic(trained)
        sent = mib(ring(payload, args.ranks))
        print(f"| {method} | {trained:,} | {mib(payload)} | {sent} | {trained / least:,.2f} |")


def print_footprint(args: argparse.Namespace) -> None:
    """Print the tables for the options of ``promptstage footprint``.

    Raises:
        UserError: if a backbone cannot be read.
    """
    shapes = {name: shape_of(name) for name in args.backbone or SHAPES}
    print(
        f"{args.dtype}; a micro-batch of {args.batch_size} × {args.length} tokens, {args.virtual_tokens} "
        f"virtual tokens; {args.eval_batch_size} questions of {args.question} tokens, {args.new_tokens} "
        f"generated tokens each.\nMemory of each GPU in GiB; a GPU is full at {USABLE:.0%}."
    )
    for name, shape in shapes.items():
        print_memory(name, shape, args)
    print_gathered(shapes, args)
    gradients = shapes if args.backbone else {"Llama-3-8B": LLAMA3_8B}
    for name, shape in gradients.items():
        print_gradients(name, shape, args)
