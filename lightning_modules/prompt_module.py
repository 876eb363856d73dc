"""Interface of a soft-prompt method: a backbone, a constructor, and a prefix made of trained parameters."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from promptstage.lightning_modules.backbone.attention_hooks import AttentionHook
from promptstage.lightning_modules.backbone.loading import BackboneConfig, load_tokenizer, vocabulary_size
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.initialization import PromptInit
from promptstage.lightning_modules.optimization import OptimizerConfig
from promptstage.lightning_modules.positions import check_virtual_tokens
from promptstage.lightning_modules.text_settings import TextSettings
from promptstage.utilities.arguments import RecordedArguments
from promptstage.utilities.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from promptstage.datamodules.encoding import Batch, Tokens

    BackboneLike = BackboneConfig | Backbone | str
else:
    # jsonargparse reads signatures at run time: on the command line a backbone is given by its options.
    BackboneLike = BackboneConfig


class PromptModule(RecordedArguments, L.LightningModule, ABC):
    """Interface of a method: what it trains, and what content attends to.

    Attributes:
        backbone: the frozen language model, once it is loaded; several prompts may share one.
        backbone_config: its configuration.
        text_settings: how questions are rendered and generations end, as in the last fit.
        changes_attention: texts are run under attention hooks that change weights (:meth:`hooks_of`), which
            generation and saliency do not support.
        monitor: logged value that selects the best checkpoint, and whether its ``min`` or ``max`` is the
            best.
        init: starting values of virtual tokens, for methods with this option.
        lr_range: learning rates that ``promptstage tune`` searches by default.
        transfers: the prompt of a checkpoint is used with a different backbone than it was trained with.
    """

    backbone: Backbone
    changes_attention: ClassVar[bool] = False
    monitor: tuple[str, str] = ("val/loss", "min")
    lr_range: ClassVar[tuple[float, float]] = (1e-4, 1.0)
    transfers: bool = False
    init: PromptInit = PromptInit()
    optimizer_config: OptimizerConfig
    visible_from: int = 0
    visible_until: int | None = None
    _ddp_params_and_buffers_to_ignore: list[str]  # torch's name

    def __init__(self, backbone: BackboneLike) -> None:
        """
        Args:
            backbone: configuration, name or path of the frozen language model, or one that is loaded.

        Raises:
            UserError: if a loaded backbone has trainable parameters.
        """
        super().__init__()
        if isinstance(backbone, Backbone):
            if any(parameter.requires_grad for parameter in backbone.parameters()):
                raise UserError(f"backbone '{backbone.config.name}' must be frozen, got trainable parameters")
            self.backbone = backbone
            self.backbone_config = backbone.config
        else:
            self.backbone_config = BackboneConfig(backbone) if isinstance(backbone, str) else backbone
        self.text_settings = TextSettings()
        self._created = False
        self._shared_prefix: Prefix | None = None

    @abstractmethod
    def configure_prompts(self, generator: torch.Generator) -> None:
        """Create the trained parameters in float32, once the backbone is loaded.

        Args:
            generator: the only source of random numbers to use, so that all ranks start alike.
        """

    def vectors(self) -> list[Tensor]:
        """Return the soft prompt's vectors, (m, parts, width) for each stage; empty without a prompt.

        A part has a scale of its own: one for a prompt, each layer's keys and values for a prefix. Parts that
        are narrower than others end in NaN.
        """
        return []

    def prefix_of(self, vectors: list[Tensor], dropped: Tensor | None = None) -> Prefix | None:
        """Build the prefix that content attends to from given vectors; None for no prefix.

        Args:
            vectors: as :meth:`vectors`, or (b, m, parts, width) each for one prompt per example.
            dropped: (b,) int64, the virtual token, counted over all stages, to hide; -1 hides none.
        """
        return None

    def prefix(self) -> Prefix | None:
        """Build the prefix, with gradients to the trained parameters; None for no prefix."""
        return self.prefix_of(self.vectors())

    def evaluation_prefix(self) -> Prefix | None:
        """Return the prefix, computed once for a whole evaluation."""
        if self._shared_prefix is None:
            self._shared_prefix = self.prefix()
        return self._shared_prefix

    def hooks_of(self, batch: "Batch", tokens: "Tokens") -> Sequence[AttentionHook]:
        """Return the attention hooks under which the texts of a batch are run; most methods have none.

        Args:
            batch: the questions, with their classes.
            tokens: ``batch.gold`` or its prompts, padded on the right.
        """
        return ()

    def check_unchanged_attention(self, what: str) -> None:
        """Check that the method does not change attention weights.

        Args:
            what: what needs unchanged weights, for the message.

        Raises:
            UserError: if it does.
        """
        if self.changes_attention:
            raise UserError(f"{what} is not supported with {type(self).__name__}, which changes attention")

    def layer_prompts(self) -> list[tuple[int, Tensor]]:
        """Return each soft prompt (m, d) with the layer whose input it is part of; most methods have none."""
        return []

    def structure(self) -> dict[str, object]:
        """Return what must agree between a checkpoint and this module besides keys and shapes."""
        return {}

    def exported(self) -> dict[str, Tensor]:
        """Return the prompt as it is used, without parameters that only training needs."""
        return dict(self.state_dict())

    def reported(self) -> dict[str, Any]:
        """Return plain values that summaries of evaluations contain; most methods need none."""
        return {}

    def stored_entries(self) -> dict[str, Any]:
        """Return plain values that a checkpoint must hold for :meth:`adopt`; most methods need none."""
        return {}

    def adopt(self, checkpoint: Mapping[str, Any]) -> None:
        """Take from a checkpoint what must be known before prompts are created; most methods need nothing.

        Called before ``fit`` resumes, before an evaluation and before a prompt is loaded; tensors are loaded
        later. Files of starting values are not read again: they may be gone, and a checkpoint must not name
        files to read.
        """
        if isinstance(self.init, PromptInit) and self.init.path is not None:
            self.init = PromptInit()

    def load_backbone(self) -> Backbone:
        """Return the backbone, which is loaded on the first call.

        Raises:
            UserError: in ``fit`` and ``validate``, if it is for generation only.
        """
        if self.backbone_config.quantization == "int8" and self._trainer is not None:
            command = self._trainer.state.fn
            if command in (TrainerFn.FITTING, TrainerFn.VALIDATING):
                self.backbone_config.check_full_precision(command.value)
        if not hasattr(self, "backbone"):
            check_virtual_tokens(self)
            self.backbone = Backbone(self.backbone_config)
        return self.backbone

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The backbone's tokenizer, which data modules use; loaded without the backbone's weights."""
        return self.backbone.tokenizer if hasattr(self, "backbone") else load_tokenizer(self.backbone_config)

    @property
    def vocabulary_size(self) -> int | None:
        """Number of the backbone's embeddings; None if unknown until its weights are loaded."""
        loaded = hasattr(self, "backbone")
        return self.backbone.vocab_size if loaded else vocabulary_size(self.backbone_config)

    def create_prompts(self) -> None:
        """Load the backbone and create the trained parameters, unless they exist."""
        if self._created:
            return
        # From the run's seed alone: the same start on every rank, whatever drew numbers before.
        generator = torch.Generator().manual_seed(torch.initial_seed())
        self.load_backbone()
        with torch.device("cpu"):
            self.configure_prompts(generator)
        self._created = True

    def trained_parameters(self) -> list[torch.nn.Parameter]:
        """Return the parameters that the optimizer may change."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def check_layers(self, option: str, layers: list[int]) -> None:
        """Check that the backbone has the layers that an option names.

        Raises:
            UserError: naming the first layer that it does not have.
        """
        for layer in layers:
            if not 0 <= layer < self.backbone.num_layers:
                raise UserError(
                    f"{option} names layer {layer}, but backbone '{self.backbone_config.name}' has layers "
                    f"0 to {self.backbone.num_layers - 1}"
                )

    def check_starts(self, option: str, starts: Sequence[int]) -> None:
        """Check that prompts can start at the inputs of some layers.

        Raises:
            UserError: naming the last layer at which a prompt can start.
        """
        last = self.backbone.last_state_layer
        for layer in starts:
            if layer > last:
                raise UserError(
                    f"{option} must be <= {last}, since later layers of backbone "
                    f"'{self.backbone_config.name}' have no keys and values of their own, got {layer}"
                )
