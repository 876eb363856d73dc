"""Export of a prompt by the name of a format."""

import os
from collections.abc import Callable
from pathlib import Path

from promptstage.composition.exports.hub import check_repository, upload, write_hub_folder
from promptstage.composition.exports.vllm import write_vllm_folder
from promptstage.lightning_modules.adapters.export import adapter_of
from promptstage.lightning_modules.adapters.files import write_adapter
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.utilities.errors import UserError, choose
from promptstage.utilities.files import whole_folder
from promptstage.utilities.processes import note

PathLike = str | os.PathLike[str]
HUB = "hub"


def _write_peft(folder: Path, module: SoftPromptModule) -> None:
    write_adapter(folder, adapter_of(module))


_FOLDERS: dict[str, Callable[[Path, SoftPromptModule], None]] = {
    "peft": _write_peft,
    "vllm": write_vllm_folder,
}
FORMATS = (*_FOLDERS, HUB)


def export(
    prompt: SoftPromptModule,
    to: str,
    target: PathLike,
    *,
    dry_run: PathLike | None = None,
    run: PathLike | None = None,
) -> str:
    """Export a trained prompt for another program.

    Args:
        to: ``peft``: a folder that ``PeftModel.from_pretrained`` loads; ``vllm``: a folder with the prompt's
            embeddings and an example; ``hub``: a repository on the Hugging Face Hub, with a model card.
        target: folder to create, or repository (``OWNER/NAME``) for ``hub``.
        dry_run: for ``hub``, folder to write instead of uploading.
        run: for ``hub``, run folder whose configuration and test results the model card states.

    Returns:
        The folder, or the repository's address.

    Raises:
        UserError: if the format cannot hold the prompt, the folder exists, or the upload fails.
    """
    choose("format", to, FORMATS)
    if dry_run is not None and to != HUB:
        raise UserError(f"dry_run is for hub: {to} writes a folder anyway")
    if to != HUB:
        folder = Path(target).expanduser()
        with whole_folder(folder) as temporary:
            _FOLDERS[to](temporary, prompt)
        for caveat in _caveats(prompt):
            note(caveat)
        return str(folder)
    repository, source = str(target), None if run is None else Path(run).expanduser()
    check_repository(repository)
    if dry_run is None:
        return upload(repository, prompt, source)
    folder = Path(dry_run).expanduser()
    with whole_folder(folder) as temporary:
        write_hub_folder(temporary, repository, prompt, source)
    return str(folder)


def _caveats(prompt: SoftPromptModule) -> list[str]:
    """Return differences between a prompt here and in other programs."""
    caveats = []
    backbone = prompt.load_backbone()
    if getattr(prompt, "bos_first", False):
        caveats.append("the first row is the BOS (bos_first): tokenize questions without a BOS")
    windows = [view.window for view in backbone.views if view.window is not None]
    if windows:
        caveats.append(
            f"layers of backbone '{backbone.config.name}' see {min(windows)} tokens: elsewhere, longer texts "
            "push the prompt out of these layers, and here they do not"
        )
    return caveats
