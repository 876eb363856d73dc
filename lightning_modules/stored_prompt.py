"""State of a prompt in checkpoints and saved folders: the trained parameters and nothing of the backbone."""

import os
from collections.abc import Mapping
from typing import Any, Self

import torch

from promptstage.lightning_modules.checkpoint_callbacks import restored_states, scores_only
from promptstage.lightning_modules.checkpoint_numbers import check_numbers, stored_random_state
from promptstage.lightning_modules.checkpoints import check_keys, describe, verify
from promptstage.lightning_modules.finiteness import check_state
from promptstage.lightning_modules.prompt_module import PromptModule
from promptstage.lightning_modules.saved_prompts import read_prompt, restore, save_prompt, stored_text


class StoredPrompt(PromptModule):
    """Lightning's hooks for checkpoints, and ``save`` and ``load_from_checkpoint`` without a trainer."""

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Save the prompt to a folder, as ``prompt.safetensors`` and ``prompt.json``; on the first rank only.

        Raises:
            UserError: if the folder has another prompt, or cannot be written to.
        """
        if self._trainer is None or self._trainer.is_global_zero:
            save_prompt(self, folder)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # Lightning's is a descriptor of the same call
        cls,
        checkpoint_path: str | os.PathLike[str],
        map_location: str | torch.device | None = None,
        hparams_file: None = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load a prompt of this method, ready to evaluate; arguments come from the checkpoint.

        Args:
            checkpoint_path: checkpoint, run folder or saved folder (see ``load_prompt``).
            map_location: device to move the prompt and its backbone to.
            hparams_file, strict, weights_only: Lightning's; keys always agree, and nothing is executed.
            kwargs: constructor arguments that replace stored ones, such as ``backbone``.

        Raises:
            UserError: if the files are damaged, or method, backbone or arguments do not fit.
        """
        contents, where = read_prompt(checkpoint_path)
        module = restore(cls, contents, where, **kwargs)
        return module if map_location is None else module.to(map_location)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return what is trained, and nothing of the frozen backbone."""
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        full = super().state_dict(*args, **kwargs)
        return {key: full[key] for key in full if key in trained or not key.startswith("backbone.")}

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load trained tensors; keys and shapes must agree exactly, whatever ``strict`` is.

        Raises:
            UserError: naming the first key or shape that differs.
        """
        check_keys(self.state_dict(), state_dict)
        return super().load_state_dict(state_dict, strict=False, assign=assign)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["promptstage"] = describe(self)
        checkpoint["rng"] = torch.get_rng_state()
        if self._trainer is not None:
            check_state(self, checkpoint)
            checkpoint["callbacks"] = scores_only(checkpoint.get("callbacks", {}), self._trainer)
        checkpoint.update(self.stored_entries())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        verify(self, checkpoint)
        check_numbers(checkpoint, "the checkpoint")
        self._rng = stored_random_state(checkpoint.get("rng"))
        self.text_settings = stored_text(checkpoint, "the checkpoint")
        if self._trainer is not None:
            checkpoint["callbacks"] = restored_states(checkpoint.get("callbacks"), self._trainer)

    def on_train_start(self) -> None:
        if hasattr(self, "_rng"):
            torch.set_rng_state(self._rng)
