"""Check that a data set's texts fit behind the virtual tokens."""

import torch
from lightning.pytorch.utilities import rank_zero_warn

from promptstage.lightning_modules.backbone.loading import context_length
from promptstage.lightning_modules.prompt_module import PromptModule


@torch.no_grad()
def check_context(module: PromptModule) -> None:
    """Refuse texts that do not fit behind the virtual tokens, and warn of windows shorter than the text.

    Raises:
        UserError: from the data module, naming the longest text.
    """
    trainer = module._trainer
    if trainer and trainer.max_steps == 0:
        return  # nothing will be read behind them
    datamodule = getattr(trainer, "datamodule", None) if trainer else None
    if datamodule is None:
        return
    prefix = module.prefix()
    virtual = 0 if prefix is None else prefix.num_positions
    limit = context_length(module.backbone_config)
    if limit is not None:
        datamodule.check_context(limit, virtual)
    window, longest = module.backbone.sliding_window, datamodule.longest() + virtual
    if prefix is not None and window is not None and longest > window:
        rank_zero_warn(
            f"backbone '{module.backbone_config.name}' has layers that attend to the last {window} tokens "
            f"only, and texts reach {longest} with the prompt: it stays visible in these layers, which "
            "no prompt of real tokens would"
        )
