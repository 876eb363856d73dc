"""Files and figures of DHAM's stages.

Figures ``partition/similarity``, ``partition/dendrogram``, ``partition/silhouette`` and ``partition/votes``
are logged at step 0, and written to the run folder as PNG beside ``partition.json``.
"""

from pathlib import Path

import lightning as L

from promptstage.callbacks.run.loggers import log_figures
from promptstage.lightning_modules.dham import DHAM
from promptstage.lightning_modules.functional.partition import Partition
from promptstage.lightning_modules.stages import save_partition


class CKAPartition(L.Callback):
    """Writes the stages of a DHAM module at the start of fit; other modules are ignored.

    The module determines its stages itself; this callback has it do so before anything that can fail later,
    so that a search is not lost. Stages of a checkpoint or an earlier fit are not written again.

    Args:
        folder: folder of ``partition.json`` and the figures; None: nothing is written.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage != "fit" or not isinstance(pl_module, DHAM) or pl_module.stages is not None:
            return
        partition = pl_module.find_stages(trainer)
        if trainer.is_global_zero:
            self._write(trainer, partition)

    def _write(self, trainer: L.Trainer, partition: Partition) -> None:
        if self.folder is not None:
            save_partition(partition, self.folder / "partition.json")
        if partition.similarity is None or not (trainer.loggers or self.folder):
            return
        from promptstage.callbacks.partition.figures import of_partition

        log_figures(trainer, of_partition(partition), "partition", self.folder, "partition_", step=0)
