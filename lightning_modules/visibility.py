"""Layers in which content attends to a soft prompt: an ablation for the hypotheses of DHAM.

In layers ``visible_from`` ≤ l < ``visible_until``, counted from 0, content tokens attend to the virtual
tokens. Unchanged in the other layers are the virtual tokens, which attend to each other and pass through
every layer; the positions of content, which start after them; and a BOS before them (``bos_first``), which is
not a virtual token.

DHAM: §3 of "Unlocking coherent reasoning in LLMs with hierarchical soft prompts", anonymous, under review.
"""

from collections.abc import Iterable, Sequence

from lightning.pytorch.trainer.states import TrainerFn

from promptstage.lightning_modules.prompt_module import PromptModule
from promptstage.utilities.checks import check_minimum
from promptstage.utilities.errors import UserError


def check_visibility(visible_from: int, visible_until: int | None) -> None:
    """Check the range of layers before the backbone is loaded.

    Raises:
        UserError: if it is empty.
    """
    check_minimum({"visible_from": visible_from}, 0, "the first layer")
    if visible_until is not None and visible_until <= visible_from:
        raise UserError(
            f"visible_until must be > {visible_from} (visible_from), since layers visible_from to "
            f"visible_until - 1 attend to the prompt, got {visible_until}"
        )


def check_visible(module: PromptModule, seeing: Sequence[Iterable[int]]) -> None:
    """Check that some layer attends to the prompt and, in training, to each stage's.

    Args:
        seeing: for each stage the layers that attend to its prompt without ``visible_from`` and
            ``visible_until``.

    Raises:
        UserError: naming the option.
    """
    layers = module.backbone.num_layers
    start, end = module.visible_from, module.visible_until
    if start >= layers or (end or 0) > layers:
        name, value, most = (
            ("visible_from", start, layers - 1) if start >= layers else ("visible_until", end, layers)
        )
        raise UserError(
            f"{name} must be <= {most}: backbone '{module.backbone_config.name}' has {layers} layers, got "
            f"{value}"
        )
    visible = range(start, layers if end is None else end)
    mixing = [layer for layer in module.backbone.mixing_layers if layer in visible]
    unseen = [stage for stage, own in enumerate(seeing) if not any(layer in mixing for layer in own)]
    trainer = module._trainer
    # The partition command takes no step.
    training = trainer is not None and trainer.state.fn == TrainerFn.FITTING and trainer.max_steps != 0
    if unseen and (training or len(unseen) == len(seeing)):
        prompt = f"the prompt of stage {unseen[0] + 1}" if len(seeing) > 1 else "the prompt"
        raise UserError(
            f"visible_from {start} and visible_until {end}: no layer from {visible.start} to "
            f"{visible.stop - 1} attends to {prompt}"
        )


def visible_layers(module: PromptModule) -> list[int] | None:
    """Return [``visible_from``, ``visible_until``]; None if all layers attend, or no prompt exists."""
    start, end = module.visible_from, module.visible_until
    layers = module.backbone.num_layers
    stop = layers if end is None else end
    return None if (start, stop) == (0, layers) else [start, stop]
