"""Upload of a prompt to the Hugging Face Hub, with a model card."""

import shutil
import tempfile
from pathlib import Path

from promptstage.composition.configuration import read_config
from promptstage.composition.exports.card import CONFIG, model_card
from promptstage.composition.results import Evaluation, read_evaluation
from promptstage.lightning_modules.adapters.export import adapter_of
from promptstage.lightning_modules.adapters.files import write_adapter
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.full_fine_tuning import FullFineTuning
from promptstage.lightning_modules.saved_prompts import save_prompt
from promptstage.utilities.errors import UserError
from promptstage.utilities.files import write_text


def check_repository(repository: str) -> None:
    """Check the name of a repository before any work.

    Raises:
        UserError: if it is not ``OWNER/NAME`` in the characters that the Hub allows.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UserError(f"repository {repository!r:.120} is not a name on the Hub: OWNER/NAME") from error
    if repository.count("/") != 1:
        raise UserError(f"repository must be OWNER/NAME, got {repository!r:.120}")


def write_hub_folder(folder: Path, repository: str, module: SoftPromptModule, run: Path | None) -> None:
    """Write all files of a repository: prompt, PEFT's files if it can hold the prompt, and model card.

    Args:
        run: run folder, whose configuration and newest complete test the card states; None: none.

    Raises:
        UserError: if there is no prompt, the run's files are damaged, or the folder cannot be written to.
    """
    module.create_prompts()
    if isinstance(module, FullFineTuning):
        raise UserError(
            "FullFineTuning has no prompt: upload the model in the folder 'backbone' of its run (hf upload)"
        )
    if not module.exported():
        raise UserError(f"{type(module).__name__} has no prompt to upload")
    save_prompt(module, folder)
    try:
        adapter, reason = adapter_of(module), ""
    except UserError as error:
        adapter, reason = None, str(error)
    if adapter is not None:
        write_adapter(folder, adapter)
    config = None
    if run is not None and (run / CONFIG).is_file():
        config = read_config(run / CONFIG)
        shutil.copyfile(run / CONFIG, folder / CONFIG)
    card = model_card(repository, module, adapter, reason, config, _newest_test(run))
    write_text(folder / "README.md", card)


def _newest_test(run: Path | None) -> Evaluation | None:
    if run is None or not any(run.glob("test*/results.jsonl")):
        return None
    return read_evaluation(run)


def upload(repository: str, module: SoftPromptModule, run: Path | None) -> str:
    """Upload a prompt as one commit to a repository, which is created if it does not exist.

    Returns:
        Address of the repository.

    Raises:
        UserError: as :func:`write_hub_folder`, and if the Hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_hub_folder(folder, repository, module, run)
        try:
            api = HfApi()
            url = api.create_repo(repository, exist_ok=True)
            message = f"Upload {type(module).__name__} prompt"
            api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message)
        except (OSError, HTTPError, ValueError) as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise UserError(f"upload to {repository} failed: {reason}") from error
    return str(url)
