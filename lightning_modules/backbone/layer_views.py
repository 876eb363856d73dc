"""Facts about a layer's attention that a packed pass cannot take from transformers' masks.

Packing replaces the masks of windows and chunks, and the index of a token in a packed row is no position.
Attention modules therefore store their :class:`View` and :class:`QueryGrowth` as attributes, found once in a
forward pass in which each mask consists of a number that says how it limits the view.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from promptstage.lightning_modules.backbone.implementation import attention_implementation

IMPLEMENTATION = "promptstage_views"
_VIEW, _GROWTH = "_promptstage_view", "_promptstage_growth"


class View(NamedTuple):
    """Content that a layer's queries attend to, besides the prefix.

    Attributes:
        window: number of content tokens, a query's own included; None: all.
        chunk: number of positions in each chunk, outside of which a query attends to nothing (Llama 4); None:
            no chunks.
    """

    window: int | None = None
    chunk: int | None = None


class QueryGrowth(NamedTuple):
    """Factor of queries that grows with their position, 1 + strength · log(1 + ⌊(position + 1) / step⌋).

    "Scalable-Softmax Is Superior for Attention", Nakanishi, 2025, arXiv:2501.19399, in the form of Llama 4
    (``attn_temperature_tuning``).
    """

    strength: float
    step: int

    def __call__(self, query: Tensor, positions: Tensor) -> Tensor:
        """Scale queries (B, heads, n, head dim) at positions (B or 1, n)."""
        factor = 1 + self.strength * torch.log1p(((positions.float() + 1) / self.step).floor())
        return (query * factor[:, None, :, None]).to(query.dtype)


def layer_view(module: nn.Module, arguments: dict[str, Any]) -> View:
    """Return the view of an attention module's layer.

    Args:
        arguments: keyword arguments of its attention, which name the window if the module has no view.
    """
    known: View | None = getattr(module, _VIEW, None)
    if known is not None:
        return known
    return View(arguments.get("sliding_window", getattr(module, "sliding_window", None)))


def query_growth(module: nn.Module) -> QueryGrowth | None:
    """Return the growth of an attention module's queries; None: they do not grow."""
    return getattr(module, _GROWTH, None)


@torch.no_grad()
def find_views(model: Any, input_ids: Tensor) -> frozenset[View]:
    """Store views and query growth in the attention modules of a Hugging Face model.

    Args:
        input_ids: (1, n) ordinary tokens.

    Returns:
        The views of its layers.

    Raises:
        NotImplementedError: if a module has no layer of its own.
    """
    with attention_implementation(model, IMPLEMENTATION):
        model(input_ids=input_ids, use_cache=False)
    views = set()
    for module in model.modules():
        if (view := getattr(module, _VIEW, None)) is not None:
            views.add(view)
        # The module's own factor depends on the index in the row.
        if getattr(module, "attn_temperature_tuning", False):
            module.attn_temperature_tuning = False
            if not module.use_rope:
                setattr(module, _GROWTH, QueryGrowth(module.attn_scale, module.floor_scale))
    return frozenset(views)


def _coded_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: Callable[..., Tensor],
    local_size: int | None = None,
    device: torch.device | str = "cpu",
    **kwargs: Any,
) -> Tensor:
    """Return a mask of one number: the window, minus the size of the chunks, or 0 for neither."""
    code = local_size or 0
    if code and _is_chunked(mask_function, code, device):
        code = -code
    return torch.full((batch_size, 1, q_length, kv_length), code, dtype=torch.float64, device=device)


def _is_chunked(mask_function: Callable[..., Tensor], size: int, device: torch.device | str) -> bool:
    """Return whether the first token of the second chunk does not attend to the last one of the first."""
    first, later = torch.zeros(1, dtype=torch.int64, device=device), torch.full((1,), size, device=device)
    try:
        return not bool(mask_function(first, first, later, later - 1))
    except IndexError:  # a window that also looks up the tokens, of which there are fewer
        return False


def _record_view(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *args: Any,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Store the view that a coded mask names in the module; return zeros.

    Raises:
        NotImplementedError: if the module has no layer of its own.
    """
    layer = getattr(module, "layer_idx", None)
    if layer is None or layer < 0:
        raise NotImplementedError("its layers share attention modules, which do not know their layer")
    if attention_mask is not None:
        code = int(attention_mask.flatten()[0])
        view = View(code if code > 0 else None, -code if code < 0 else None)
    else:
        view = layer_view(module, kwargs)
    setattr(module, _VIEW, view)
    return query.new_zeros(query.shape[0], query.shape[2], query.shape[1], value.shape[-1]), None


def register_view_search() -> None:
    """Register the attention implementation that records views, and its masks, with transformers."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(IMPLEMENTATION, _record_view)
    AttentionMaskInterface.register(IMPLEMENTATION, _coded_mask)
