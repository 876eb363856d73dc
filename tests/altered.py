"""Altered copies of a finished run, as an attacker could hand over."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml


def alter(
    run: Path,
    copy: Path,
    config: Callable[[dict[str, Any]], object] | None = None,
    checkpoint: Callable[[dict[str, Any]], object] | None = None,
) -> Path:
    """Copy ``run`` to ``copy``, with its stored configuration and checkpoints changed in place."""
    shutil.copytree(run, copy)
    for file in (copy / "checkpoints").glob("*.ckpt"):
        content = torch.load(file, weights_only=True)
        values = yaml.safe_load(content["config"])
        if config is not None:
            config(values)
        content["config"] = yaml.safe_dump(values)
        if checkpoint is not None:
            checkpoint(content)
        buffer = io.BytesIO()
        torch.save(content, buffer)
        file.write_bytes(buffer.getvalue())
    return copy
