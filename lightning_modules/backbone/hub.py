"""Download of a backbone's files from the Hugging Face hub, into huggingface_hub's cache.

Only files that a causal language model and its tokenizer are read from are downloaded: all else that loads
a backbone then works on a folder, whose files are checked before they are read.
"""

from functools import cache
from glob import escape
from pathlib import Path

from promptstage.lightning_modules.backbone.boundary import reason
from promptstage.lightning_modules.backbone.model_folder import check_files, weight_names
from promptstage.utilities.errors import UserError
from promptstage.utilities.hub_access import use_cache_if_offline

CONFIGURATION = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")


@cache
def configuration_folder(name: str, revision: str | None, code: bool) -> Path:
    """Return the folder of a repository's configuration and tokenizer, downloaded unless they are cached.

    Args:
        name: hub id.
        revision: commit, tag or branch; None: main.
        code: with the repository's Python files.

    Raises:
        UserError: if the repository does not exist, is gated, or neither the hub nor a copy can be reached.
    """
    return _fetch(name, revision, (*CONFIGURATION, *(("*.py",) if code else ())))


@cache
def bare_configuration_folder(name: str, revision: str | None, code: bool) -> Path:
    """Return the folder of a repository's ``config.json``, as :func:`configuration_folder` does."""
    return _fetch(name, revision, ("config.json", *(("*.py",) if code else ())))


@cache
def gguf_folder(name: str, revision: str | None, gguf_file: str) -> Path:
    """Return the folder of a repository's GGUF file and tokenizer, downloaded unless they are cached.

    Raises:
        UserError: as :func:`configuration_folder` does, or if there is no such file.
    """
    folder = _fetch(name, revision, (*CONFIGURATION, escape(gguf_file)))
    if not (folder / gguf_file).is_file():
        raise UserError(f"backbone.gguf_file '{gguf_file}' is not in the top folder of '{name}' on the hub")
    return folder


@cache
def download_weights(name: str, revision: str | None) -> None:
    """Download a repository's weights, unless they are cached: one file, or the shards that its index names.

    Raises:
        UserError: as :func:`configuration_folder` does, or if the repository is an adapter or has no weights.
    """
    folder = configuration_folder(name, revision, code=False)
    check_files(folder)
    for kind in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{kind}.index.json"  # downloaded with the configuration
        names = weight_names(index) if index.exists() else [kind]
        if (_fetch(name, revision, tuple(names)) / names[0]).exists():
            return


def _fetch(name: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    use_cache_if_offline()
    try:
        folder = snapshot_download(
            name, revision=revision, allow_patterns=list(patterns), ignore_patterns="*/*"
        )
        return Path(str(folder))
    except GatedRepoError as error:
        problem = (
            f"access is restricted: request it at https://huggingface.co/{name}, then run 'hf auth login'"
        )
        raise UserError(f"backbone '{name}': {problem}") from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"backbone '{name}' is neither a folder nor a public model on the hub, nor one of your account: "
            "see 'hf auth login'"
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(f"backbone '{name}' has no revision '{revision}' on the hub") from error
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"backbone '{name}' is neither a folder nor complete in the cache, and the hub cannot be reached"
        ) from error
    except Exception as error:  # of the network, of the disk, or of a malformed id
        raise UserError(f"backbone '{name}' cannot be downloaded: {reason(error)}") from error
