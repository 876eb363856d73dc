"""Structure of a model: in which layers a prefix can enter, and how, and facts that other code relies on."""

import sys

import torch

from promptstage.lightning_modules.backbone.attention import AttentionContext
from promptstage.lightning_modules.backbone.attention_hooks import KeysValues
from promptstage.lightning_modules.backbone.boundary import OWN_ATTENTION, reason
from promptstage.lightning_modules.backbone.frozen import FrozenModel
from promptstage.lightning_modules.backbone.mixer_pass import MixerPass
from promptstage.lightning_modules.backbone.text_reference import draw_tokens
from promptstage.lightning_modules.backbone.token_mixers import wrap_token_mixers
from promptstage.utilities.errors import UserError

_UNSUPPORTED = {
    "attn_temperature_tuning": "it scales queries by their index in the row, not by position_ids "
    "(attn_temperature_tuning)"
}
"""Settings of a configuration that no short text reveals, with the cause of the refusal."""


def check_structure(backbone: FrozenModel) -> None:
    """Find out where a prefix can enter, and set the backbone's attributes accordingly.

    The attributes are:

    - ``attention_layers``: indices of the layers whose attention can be extended, ascending.
    - ``mixers``: the token mixers, which can start from a state, by layer. A layer may have both.
    - ``last_state_layer``: the last layer with a state of its own: that of a mixer, or keys and values. Later
      layers have none, or reuse the keys and values of earlier ones.
    - ``plain_head``: whether the logits are the output matrix applied to the last hidden states, and nothing
      else.

    Raises:
        UserError: naming what the model lacks.
    """
    model, width = backbone.model, backbone.embedding.shape[1]
    for setting, cause in _UNSUPPORTED.items():
        if getattr(model.config.get_text_config(), setting, None):
            raise refusal(backbone, cause)
    if width != backbone.hidden_size:
        raise refusal(backbone, f"its embeddings are {width} wide, its layers {backbone.hidden_size}")
    if model.base_model is model:
        raise refusal(backbone, "its layers cannot be run without its output matrix")
    hook, mixing, again = KeysValues(backbone.num_layers), MixerPass(), MixerPass()
    try:
        # Ordinary tokens: the embedding of a padding token may be zero, and its logits with it.
        ids = draw_tokens(backbone, 0, 7)[0][None]
        backbone.mixers = wrap_token_mixers(model, backbone.layers, backbone.cache_argument, ids)
        with torch.no_grad():
            context = AttentionContext(hooks=[hook], mixing=mixing)
            logits = model(input_ids=ids, use_cache=False, context=context).logits
            context = AttentionContext(mixing=again)
            hidden = model.base_model(input_ids=ids, use_cache=False, context=context)
            # Some families scale or cap their logits; the loss then uses the model's own forward.
            plain = torch.equal(model.get_output_embeddings()(hidden.last_hidden_state), logits)
    except Exception as error:
        extensible = hasattr(sys.modules[type(model).__module__], "ALL_ATTENTION_FUNCTIONS")
        raise refusal(backbone, reason(error) if extensible else OWN_ATTENTION) from error
    if not hook.recorded and not backbone.mixers:
        raise refusal(backbone, "no layer has attention that can be extended, or a state in the cache")
    if backbone.mixers.keys() != mixing.states.keys():
        raise refusal(backbone, "its layers pass no keyword arguments to their token mixers")
    if any(keys.shape[2] != ids.shape[1] for keys, _ in hook.recorded.values()):
        raise refusal(backbone, "its layers attend to keys that belong to no single token")
    backbone.plain_head, backbone.attention_layers = plain, tuple(sorted(hook.recorded))
    owners = {id(hook.recorded[layer][0]): layer for layer in reversed(backbone.attention_layers)}
    backbone.last_state_layer = max([*owners.values(), *backbone.mixers])


def refusal(backbone: FrozenModel, why: str) -> UserError:
    """Return the error that a backbone cannot take a prefix."""
    kind = backbone.model.config.model_type
    return UserError(f"backbone '{backbone.config.name}' ({kind}) cannot take a prefix: {why}")
