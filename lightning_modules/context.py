"""Check that virtual tokens and a data set's texts fit in the backbone's context."""

import torch
from lightning.pytorch.utilities import rank_zero_info

from promptstage.lightning_modules.backbone.loading import context_length
from promptstage.lightning_modules.prompt_module import PromptModule


@torch.no_grad()
def check_context(module: PromptModule) -> None:
    """Check that texts fit behind the virtual tokens; warn if a window or chunk is shorter than they are.

    Raises:
        UserError: from the data module, naming the longest text.
    """
    trainer = module._trainer
    if trainer and trainer.max_steps == 0:
        return  # no text follows them
    datamodule = getattr(trainer, "datamodule", None) if trainer else None
    if datamodule is None:
        return
    prefix = module.evaluation_prefix()
    virtual = 0 if prefix is None else prefix.num_positions
    limit = context_length(module.backbone_config)
    if limit is not None:
        datamodule.check_context(limit, virtual)
    longest = datamodule.longest() + virtual
    views = {
        "the last {} tokens": [view.window for view in module.backbone.views],
        "the tokens of one chunk of {} positions": [view.chunk for view in module.backbone.views],
    }
    for view, sizes in views.items():
        size = min(filter(None, sizes), default=None)
        if prefix is not None and size is not None and longest > size:
            rank_zero_info(
                f"warning: backbone '{module.backbone_config.name}' has layers that attend to "
                f"{view.format(size)} only, and texts have up to {longest} with the prompt: it stays visible "
                "in these layers, unlike a prompt of real tokens"
            )
