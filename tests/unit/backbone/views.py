"""Limited views, literally: stock transformers over one long text, whose masks show a prompt to all content.

The reference is transformers' eager attention, one example at a time, without a cache. The masks are its own,
with windows and chunks at the positions of the long text; only the columns of the prompt are changed.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from promptstage.lightning_modules.backbone.decoder_layers import decoder_layers
from promptstage.lightning_modules.backbone.generation import generate
from promptstage.lightning_modules.backbone.hooks import input_hooks
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.tiny_model import random_model, tiny_config
from promptstage.lightning_modules.backbone.tiny_sizes import VOCABULARY, WIDTH
from promptstage.lightning_modules.backbone.virtual_tokens import stage_prefix
from tests.unit.backbone.tiny import pad

ROWS, NEW = (17, 9, 14), 4


def viewed_config(family: str, view: int, **changes: Any) -> Any:
    """A tiny configuration of a type whose layers see ``view`` tokens, if they do not see all."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config = tiny_config(CONFIG_MAPPING[family])
    own = {"sliding_window": view, "use_sliding_window": True, "attention_chunk_size": view}
    text = config.get_text_config()
    for name, value in (own | changes).items():
        if hasattr(text, name):
            setattr(text, name, value)
    return config


class Viewed:
    """A saved random model as a backbone, and the stock model as a reference.

    Args:
        start: the layer at which a prompt of ``length`` tokens enters.
    """

    def __init__(self, config: Any, folder: Path, length: int = 5, start: int = 0) -> None:
        from transformers import AutoModelForCausalLM

        random_model(config).save_pretrained(folder)
        self.backbone = Backbone(str(folder))
        self.backbone.model.generation_config.eos_token_id = None
        self.stock: Any = AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation="eager", dtype=torch.float32
        ).eval()
        self.length, self.start = length, start
        draw = torch.Generator().manual_seed(1)
        ids = torch.randint(40, VOCABULARY, (length + sum(ROWS),), generator=draw)
        self.front, *self.rows = ids.split([length, *ROWS])
        prompt = torch.randn(length, WIDTH, generator=draw)
        if start == 0:
            prompt = self.stock.get_input_embeddings()(self.front).detach()
        self.prompt = prompt.requires_grad_()

    def reference(self, row: Tensor) -> Tensor:
        """Logits (n, vocabulary) of content (n,)."""
        with self._placed():
            ids = torch.cat([self.front, row])[None]
            return self.stock(input_ids=ids, use_cache=False).logits[0, self.length :]

    @contextmanager
    def _placed(self) -> Iterator[None]:
        """Put the prompt at its layer, and show it to all content from there on."""

        def overwrite(states: Tensor) -> Tensor:
            return torch.cat([self.prompt[None], states[:, self.length :]], dim=1)

        def shown(layer: int, mask: Any) -> Any:
            if isinstance(mask, dict):
                return {name: shown(layer, part) for name, part in mask.items()}
            if not isinstance(mask, Tensor) or mask.ndim != 4 or mask.shape[2] != mask.shape[3]:
                return mask
            mask = mask.clone()
            mask[..., self.length :, : self.length] = 0 if layer >= self.start else -torch.inf
            return mask

        def enter(layer: int, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            change = partial(shown, layer)
            return tuple(map(change, args)), {name: change(value) for name, value in kwargs.items()}

        layers = decoder_layers(self.stock, self.stock.config.get_text_config().num_hidden_layers)
        embeddings = self.stock.get_input_embeddings()
        with ExitStack() as stack:
            for i, layer in enumerate(layers):
                handle = layer.register_forward_pre_hook(partial(enter, i), with_kwargs=True)
                stack.callback(handle.remove)
            if self.start:
                stack.enter_context(input_hooks([(layers[self.start], overwrite)]))
            elif self.length:
                handle = embeddings.register_forward_hook(lambda *call: overwrite(call[-1]))
                stack.callback(handle.remove)
            yield

    def differences(self) -> dict[str, float]:
        """Largest differences of the backbone from the reference, in its standard deviations."""
        tokens = self.front if self.start == 0 else None
        trained = (
            stage_prefix(self.backbone, [self.start], [self.prompt], tokens=tokens) if self.length else None
        )
        frozen = None if trained is None else trained.detach()
        found = {"logits": 0.0, "loss": 0.0, "generation": 0.0}
        losses = []
        for row in self.rows:
            expected = self.reference(row)
            losses.append(cross_entropy(expected[:-1], row[1:], reduction="sum"))
            with torch.no_grad():
                found["logits"] = max(
                    found["logits"], deviation(self.backbone(row[None], frozen)[0], expected)
                )
        batch, mask = pad(self.rows, "right")
        total, each = self.backbone.loss(batch, torch.where(mask.bool(), batch, -100), trained)
        for actual, loss, row in zip(each, losses, self.rows, strict=True):
            found["loss"] = max(found["loss"], float((actual - loss).detach().abs()) / len(row))
        if self.length:
            gradients = [
                torch.autograd.grad(part, self.prompt)[0] for part in (total, torch.stack(losses).sum())
            ]
            found["gradient"] = deviation(*gradients)
        batch, mask = pad(self.rows, "left")
        generated = generate(self.backbone, _Endless(), batch, mask, frozen, NEW)  # type: ignore[arg-type]
        found["generation"] = max(map(self._lag, self.rows, generated))
        return found

    @torch.no_grad()
    def _lag(self, row: Tensor, tokens: Sequence[int]) -> float:
        """Largest difference between the best logit and that of the next of some tokens."""
        lags = []
        for token in tokens:
            last = self.reference(row)[-1]
            lags.append(float((last.max() - last[token]) / last.std()))
            row = torch.cat([row, torch.tensor([token])])
        return max(lags)


class _Endless:
    """A tokenizer whose end token does not exist."""

    eos_token_id = -1


def deviation(actual: Tensor, expected: Tensor) -> float:
    """Largest difference in standard deviations of ``expected``."""
    return float((actual - expected).detach().abs().max() / expected.detach().std())
