"""Fine-tuned model of a run as a folder in Hugging Face format, which other runs use as their backbone."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from promptstage.lightning_modules.full_fine_tuning import FullFineTuning
from promptstage.utilities.errors import UserError
from promptstage.utilities.files import check_replaceable


def write_fine_tuned(folder: Path, module: FullFineTuning, state: Mapping[str, Tensor] | None) -> None:
    """Write configuration, weights and tokenizer of a fine-tuned model; an existing folder is replaced.

    The folder appears under its name once it is complete.

    Args:
        state: trained weights, as in a checkpoint; None: the module's present ones.

    Raises:
        UserError: if the folder cannot be written to.
    """
    own = {name: tensor.clone() for name, tensor in module.state_dict().items()} if state else {}
    new, old = (folder.with_name(f".{folder.name}.{suffix}") for suffix in ("new", "old"))
    model: Any = module.backbone.model
    try:
        if state:
            module.load_state_dict(state)
        if folder.is_symlink():
            check_replaceable(folder)
        for path in (new, old):
            shutil.rmtree(path, ignore_errors=True)
        module.tokenizer.save_pretrained(new)
        model.save_pretrained(new)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise UserError(f"folder {folder} cannot be written to: {error.strerror or error}") from error
    finally:
        if own:
            module.load_state_dict(own)
