"""The frozen backbone: a language model loaded by its configuration and verified."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from promptstage.lightning_modules.backbone.attention import register
from promptstage.lightning_modules.backbone.boundary import reading
from promptstage.lightning_modules.backbone.frozen import FrozenModel
from promptstage.lightning_modules.backbone.int8_weights import quantize_linears
from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.backbone.model_loading import load_model
from promptstage.lightning_modules.backbone.rope import note_batch_dependence
from promptstage.lightning_modules.backbone.structure import check_structure
from promptstage.lightning_modules.backbone.verification import verify
from promptstage.utilities.errors import UserError


class Backbone(FrozenModel):
    """A frozen model, verified: outputs behind a prefix equal those behind the same tokens as text."""

    def __init__(self, config: BackboneConfig | str, model: Any = None, **options: Any) -> None:
        """Load the model that ``config`` names, or wrap ``model``.

        Args:
            config: configuration, name or path.
            options: fields of :class:`BackboneConfig` to set, such as ``dtype="bfloat16"``.

        Raises:
            UserError: if it cannot be loaded or quantized, or its outputs behind a prefix differ from those
                behind the same tokens as text.
        """
        register()
        given = BackboneConfig(config, **options) if isinstance(config, str) else replace(config, **options)
        # It is identified and verified in full precision, whose gradients are checked, too.
        config = replace(given, quantization="none") if given.quantization == "int8" else given
        loads, files = model is None, None
        if loads:
            model, files = load_model(config)
        elif config is not given:
            raise UserError(
                "backbone.quantization must be none for a given model, got int8, which quantizes models that "
                "are loaded by name"
            )
        with reading(config.name, seconds=None):  # the configuration may lack a size
            super().__init__(config, model, files)
        note_batch_dependence(self.model.config.get_text_config(), config.name)
        check_structure(self)
        verify(self, remember=loads)
        if config is not given:
            quantize_linears(self)
            self.config = given

    def check_attention(self, option: str, layers: Iterable[int]) -> None:
        """Check that the backbone has attention, and that given layers have it.

        Args:
            option: what names or needs the layers, for the message.

        Raises:
            UserError: if no layer has attention; naming the first layer without it, and those with it.
        """
        if not self.attention_layers:
            raise UserError(f"{option}: no layer of backbone '{self.config.name}' has attention")
        for layer in layers:
            if layer not in self.attention_layers:
                raise UserError(
                    f"{option} names layer {layer}, but only layers {self.attending} of backbone "
                    f"'{self.config.name}' have attention"
                )

    @property
    def attending(self) -> str:
        """The layers with attention, for messages."""
        return ", ".join(map(str, self.attention_layers))

    def check_belongs(self, subject: str, fingerprint: str, name: str = "") -> None:
        """Check that a file was written with this backbone.

        Args:
            subject: the file, for the message.
            fingerprint: fingerprint in the file.
            name: name of the backbone in the file, if it has one.

        Raises:
            UserError: if the fingerprint is not this backbone's (see :meth:`matches`).
        """
        if not self.matches(fingerprint):
            owner = f"backbone '{name}'" if name else "another backbone"
            raise UserError(
                f"{subject} belongs to {owner} (fingerprint {fingerprint}), not to '{self.config.name}' "
                f"({self.fingerprint})"
            )
