"""Data modules used without a trainer."""

from typing import TypeVar

from promptstage.datamodules.base import ReasoningDataModule
from promptstage.lightning_modules.backbone.loading import BackboneConfig, load_tokenizer, vocabulary_size

Data = TypeVar("Data", bound=ReasoningDataModule)


def connected(data: Data, backbone: BackboneConfig = BackboneConfig()) -> Data:
    """Connect the tokenizer of ``backbone`` to ``data``."""
    data.connect(load_tokenizer(backbone), vocabulary_size(backbone))
    return data
