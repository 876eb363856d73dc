"""Linear layers of the decoder blocks."""

from contextlib import ExitStack

import torch
from torch import nn

from promptstage.lightning_modules.backbone.frozen import FrozenModel


def never_called(backbone: FrozenModel) -> list[str]:
    """Return the names of linear layers whose weights a token mixer uses without calling them (Mamba).

    Names are relative to the list of decoder blocks: ``3.mixer.dt_proj``.
    """
    inner = {part for mixer in backbone.mixers.values() for part in mixer.module.modules()}
    names = {
        module: name
        for name, module in nn.ModuleList(backbone.layers).named_modules()
        if isinstance(module, nn.Linear) and module in inner
    }
    called: set[nn.Module] = set()
    with ExitStack() as stack, torch.no_grad():
        for module in names:
            stack.callback(module.register_forward_hook(lambda module, *_: called.add(module)).remove)
        if names:
            backbone(torch.zeros(1, 2, dtype=torch.int64, device=backbone.embedding.device))
    return [name for module, name in names.items() if module not in called]
