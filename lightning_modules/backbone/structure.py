"""Structure of a model: in which layers a prefix can enter, and how."""

import torch

from promptstage.lightning_modules.backbone.attention import AttentionContext
from promptstage.lightning_modules.backbone.attention_hooks import KeysValues
from promptstage.lightning_modules.backbone.boundary import reason
from promptstage.lightning_modules.backbone.frozen import FrozenModel
from promptstage.lightning_modules.backbone.text_reference import draw_tokens
from promptstage.lightning_modules.backbone.token_mixers import wrap_token_mixers
from promptstage.utilities.errors import UserError


def check_structure(backbone: FrozenModel) -> None:
    """Find out where a prefix can enter, and set the backbone's attributes accordingly.

    Sets the layers with attention that can be extended, the token mixers that can start from a state, and
    whether the logits are the output matrix applied to the last hidden states, and nothing else.

    Raises:
        UserError: naming what the model lacks.
    """
    model, width = backbone.model, backbone.embedding.shape[1]
    if width != backbone.hidden_size:
        raise refusal(backbone, f"its embeddings are {width} wide, its layers {backbone.hidden_size}")
    if model.base_model is model:
        raise refusal(backbone, "its layers cannot be run without its output matrix")
    hook = KeysValues(backbone.num_layers)
    context = AttentionContext(hooks=[hook])
    try:
        # Ordinary tokens: the embedding of a padding token may be zero, and its logits with it.
        ids = draw_tokens(backbone, 0, 7)[0][None]
        backbone.mixers = wrap_token_mixers(model, backbone.layers, backbone.cache_argument, ids)
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False, context=context).logits
            hidden = model.base_model(input_ids=ids, use_cache=False, context=context)
            # Some families scale or cap their logits; the loss then uses the model's own forward.
            plain = torch.equal(model.get_output_embeddings()(hidden.last_hidden_state), logits)
    except Exception as error:
        raise refusal(backbone, reason(error)) from error
    backbone.plain_head, backbone.attention_layers = plain, tuple(sorted(hook.recorded))
    if not backbone.attention_layers and not backbone.mixers:
        raise refusal(backbone, "no layer has attention that can be extended, or a state in the cache")


def refusal(backbone: FrozenModel, why: str) -> UserError:
    """Return the error for a model that cannot take a prefix."""
    kind = backbone.model.config.model_type
    return UserError(f"backbone '{backbone.config.name}' ({kind}) cannot take a prefix: {why}")
