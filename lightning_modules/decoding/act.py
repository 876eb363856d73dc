"""Attention calibration (ACT) around an engine.

"Unveiling and harnessing hidden attention sinks: enhancing large language models without training through
attention calibration", Yu et al., ICML 2024, arXiv:2406.15765.
"""

from typing import Any

from promptstage.datamodules.encoding import Batch
from promptstage.lightning_modules.backbone.attention_calibration import AttentionCalibration, CalibratedHeads
from promptstage.lightning_modules.decoding.decoder import Decoder
from promptstage.lightning_modules.decoding.engines import Engine
from promptstage.lightning_modules.decoding.records import Record
from promptstage.utilities.recorded import recorded_settings


class ACTDecoder(Decoder):
    """Decoder whose engine generates with calibrated attention; losses are computed without it."""

    def __init__(self, engine: Engine, settings: AttentionCalibration) -> None:
        """
        Args:
            engine: generates the answers.
            settings: heads to calibrate, threshold and β.
        """
        self.engine, self.settings = engine, settings
        self._heads = CalibratedHeads(settings)

    def generate(self, batch: Batch) -> list[Record]:
        with self.backbone.hooked(self._heads):
            records = self.engine.generate(batch)
        self.generated = self.engine.generated
        return records

    def summary(self) -> dict[str, Any]:
        heads = {str(layer): list(heads) for layer, heads in self.settings.heads.items()}
        own = {"threshold": self.settings.threshold, "beta": self.settings.beta, "heads": heads}
        return super().summary() | own | {"engine": recorded_settings(self.engine)}
