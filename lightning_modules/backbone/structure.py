"""Structure of a model: whether a prefix can enter each layer, and facts that other code relies on."""

import sys
from typing import NamedTuple

import torch

from promptstage.lightning_modules.backbone.attention import AttentionContext
from promptstage.lightning_modules.backbone.attention_hooks import KeysValues
from promptstage.lightning_modules.backbone.boundary import reason
from promptstage.lightning_modules.backbone.frozen import FrozenModel
from promptstage.lightning_modules.backbone.loading import OWN_ATTENTION
from promptstage.lightning_modules.backbone.text_reference import draw_tokens
from promptstage.utilities.errors import UserError

_UNSUPPORTED = {
    "attn_temperature_tuning": "it scales queries by their index in the row, not by position_ids "
    "(attn_temperature_tuning)"
}
"""Settings of a configuration that no short text reveals, with the cause of the refusal."""


class Structure(NamedTuple):
    """Facts about a model.

    Attributes:
        plain_head: the logits are the output matrix applied to the last hidden states, and nothing else.
        last_key_layer: the last layer that computes keys and values; later ones reuse those of earlier ones.
    """

    plain_head: bool
    last_key_layer: int


def check_structure(backbone: FrozenModel) -> Structure:
    """Check that the attention of every layer can be extended by a prefix.

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
    hook = KeysValues(backbone.num_layers)
    context = AttentionContext(hooks=[hook])
    try:
        # Ordinary tokens: the embedding of a padding token may be zero, and its logits with it.
        ids = draw_tokens(backbone, 0, 7)[0][None]
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False, context=context).logits
            hidden = model.base_model(input_ids=ids, use_cache=False, context=AttentionContext())
            # Some families scale or cap their logits; the loss then uses the model's own forward.
            plain = torch.equal(model.get_output_embeddings()(hidden.last_hidden_state), logits)
    except Exception as error:
        extensible = hasattr(sys.modules[type(model).__module__], "ALL_ATTENTION_FUNCTIONS")
        raise refusal(backbone, reason(error) if extensible else OWN_ATTENTION) from error
    if sorted(hook.recorded) != list(range(backbone.num_layers)):
        raise refusal(
            backbone,
            f"{len(hook.recorded)} of its {backbone.num_layers} layers use an attention that can be extended",
        )
    if any(keys.shape[2] != ids.shape[1] for keys, _ in hook.recorded.values()):
        raise refusal(backbone, "its layers attend to keys that belong to no single token")
    owners = {id(hook.recorded[layer][0]): layer for layer in reversed(range(backbone.num_layers))}
    return Structure(plain, max(owners.values()))


def refusal(backbone: FrozenModel, why: str) -> UserError:
    """Return the error that a backbone cannot take a prefix."""
    kind = backbone.model.config.model_type
    return UserError(f"backbone '{backbone.config.name}' ({kind}) cannot take a prefix: {why}")
