"""Structure of a model: in which layers a prefix can enter, and how, and facts that other code relies on."""

import sys
from typing import NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicIndexedLayer

from promptstage.lightning_modules.backbone.attention import SPARSE
from promptstage.lightning_modules.backbone.attention_context import AttentionContext
from promptstage.lightning_modules.backbone.attention_hooks import KeysValues, Silenced
from promptstage.lightning_modules.backbone.boundary import OWN_ATTENTION, failure, reason
from promptstage.lightning_modules.backbone.carrier import carry_context
from promptstage.lightning_modules.backbone.comparison import differ
from promptstage.lightning_modules.backbone.frozen import FrozenModel
from promptstage.lightning_modules.backbone.layer_views import find_views
from promptstage.lightning_modules.backbone.mixer_pass import MixerPass
from promptstage.lightning_modules.backbone.text_reference import draw_tokens
from promptstage.lightning_modules.backbone.token_mixers import wrap_token_mixers
from promptstage.utilities.errors import UserError

_NO_ENTRANCE = (
    "its layers use neither transformers' attention interface nor its cache of recurrent states, where a "
    "prefix enters"
)


def check_structure(backbone: FrozenModel) -> None:
    """Find out where a prefix can enter, and set the backbone's attributes accordingly.

    The attributes are:

    - ``attention_layers``: indices of the layers whose attention can be extended, ascending.
    - ``mixers``: the token mixers, which can start from a state, by layer. A layer may have both.
    - ``last_state_layer``: the last layer with a state of its own: that of a mixer, or keys and values. Later
      layers have none, or reuse the keys and values of earlier ones.
    - ``views``: the windows and chunks of its layers.
    - ``plain_head``: whether the logits are the output matrix applied to the last hidden states, and nothing
      else.

    Raises:
        UserError: naming what the model lacks.
    """
    model, width = backbone.model, backbone.embedding.shape[1]
    if width != backbone.hidden_size:
        raise refusal(backbone, f"its embeddings are {width} wide, its layers {backbone.hidden_size}")
    if backbone.body is model:
        raise refusal(backbone, "its layers cannot be run without its output matrix")
    cache = DynamicCache(config=model.config.get_text_config())
    if any(isinstance(layer, DynamicIndexedLayer) for layer in cache.layers):
        raise refusal(backbone, SPARSE)
    try:
        # Ordinary tokens: the embedding of a padding token may be zero, and its logits with it.
        ids = draw_tokens(backbone, 0, 7)[0][None]
        backbone.mixers = wrap_token_mixers(model, backbone.layers, backbone.cache_argument, ids)
        probe = _probe(backbone, ids)
        if not probe.recorded or not probe.mixed:
            carry_context(model, backbone.body)
            probe = _probe(backbone, ids)
    except NotImplementedError as error:  # which states the cause
        raise refusal(backbone, reason(error)) from error
    except Exception as error:
        modules = {sys.modules[type(module).__module__] for module in model.modules()}
        extensible = any(hasattr(module, "ALL_ATTENTION_FUNCTIONS") for module in modules)
        raise refusal(backbone, failure("a short text", error) if extensible else OWN_ATTENTION) from error
    if not probe.recorded and not backbone.mixers:
        raise refusal(backbone, _NO_ENTRANCE)
    if not probe.mixed:
        raise refusal(backbone, "some of its token mixers are left out in a forward pass without a cache")
    if backbone.mixers and _ignores_states(backbone):
        for mixer in backbone.mixers.values():
            mixer.runs_again = True
    if any(keys.shape[2] != ids.shape[1] for keys, _ in probe.recorded.values()):
        raise refusal(backbone, "its layers attend to keys that belong to no single token")
    try:
        backbone.views = find_views(model, ids)
    except NotImplementedError as error:
        raise refusal(backbone, reason(error)) from error
    except Exception as error:
        raise refusal(backbone, failure("a short text", error)) from error
    backbone.plain_head, backbone.attention_layers = probe.plain_head, tuple(sorted(probe.recorded))
    owners = {id(probe.recorded[layer][0]): layer for layer in reversed(backbone.attention_layers)}
    backbone.last_state_layer = max([*owners.values(), *backbone.mixers])


class _Probe(NamedTuple):
    """Observations of a forward pass.

    Attributes:
        recorded: keys and values by layer.
        mixed: all token mixers were run.
        plain_head: see :func:`check_structure`.
    """

    recorded: dict[int, tuple[Tensor, Tensor]]
    mixed: bool
    plain_head: bool


@torch.no_grad()
def _probe(backbone: FrozenModel, ids: Tensor) -> _Probe:
    """Run the model on tokens (1, n)."""
    model, hook, mixing = backbone.model, KeysValues(backbone.num_layers), MixerPass()
    context = AttentionContext(hooks=[hook], mixing=mixing)
    logits = model(input_ids=ids, use_cache=False, context=context).logits
    context = AttentionContext(mixing=MixerPass())
    hidden = backbone.body(input_ids=ids, use_cache=False, context=context).last_hidden_state
    # Some families scale, cap or cast their logits; the loss then uses the model's own forward.
    head = model.get_output_embeddings()
    plain = hidden.dtype == backbone.dtype and torch.equal(head(hidden), logits)
    return _Probe(hook.recorded, backbone.mixers.keys() == mixing.states.keys(), plain)


@torch.no_grad()
def _ignores_states(backbone: FrozenModel) -> bool:
    """Return whether the first token mixer starts anew in the second of two pieces of a text."""
    prefix, rows = draw_tokens(backbone, 0, 7)
    ids, layer, after = torch.cat([prefix, *rows])[None, :4], min(backbone.mixers), []
    for pieces in ((ids,), ids.split(2, dim=1)):  # a single token would take another path
        mixing = MixerPass()
        for piece in pieces:
            # Attention in earlier layers would see the second piece alone.
            context = AttentionContext(hooks=[Silenced(backbone.num_layers)], mixing=mixing)
            backbone.model(input_ids=piece, use_cache=False, context=context)
        after.append(mixing.states[layer])
    pairs = [(one, other) for one, other in zip(*after, strict=True) if one is not None and other is not None]
    return any(differ(one, other) for one, other in pairs)


def refusal(backbone: FrozenModel, why: str) -> UserError:
    """Return the error that a backbone cannot take a prefix."""
    kind = backbone.model.config.model_type
    return UserError(f"backbone '{backbone.config.name}' ({kind}) cannot take a prefix: {why}")
