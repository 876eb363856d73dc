"""Examples whose answers come out later than their batch."""

from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from promptstage.callbacks.examples import data_of
from promptstage.datamodules.encoding import Batch, join
from promptstage.lightning_modules.decoding.decoder import Generated


class Answered:
    """Examples of an evaluation that wait for their generation.

    Attributes:
        generated: generations so far by example id, of the examples that were given.
    """

    def __init__(self) -> None:
        self.generated: dict[str, Generated] = {}
        self._waiting: dict[str, Batch] = {}

    def take(
        self, trainer: L.Trainer, batch: Batch, outputs: Mapping[str, Any], batch_idx: int
    ) -> list[Batch]:
        """Return the examples whose generation is finished, in batches; after the last batch all that remain.

        Args:
            batch: examples of a batch, possibly none.
            outputs: what the step of the batch returned.
        """
        self._waiting |= {example.id: batch.select([row]) for row, example in enumerate(batch.examples)}
        generated: Mapping[str, Generated] = outputs["generated"]
        last = batch_idx + 1 == number_of_batches(trainer)
        ready = [name for name in self._waiting if last or name in generated]
        self.generated |= {name: generated[name] for name in ready if name in generated}
        parts = [self._waiting.pop(name) for name in ready]
        size = data_of(trainer).eval_batch_size
        return [join(parts[start : start + size]) for start in range(0, len(parts), size)]


def number_of_batches(trainer: L.Trainer) -> int | float:
    """Return the number of this rank's batches in the evaluation that is running."""
    batches = {
        TrainerFn.TESTING: trainer.num_test_batches,
        TrainerFn.PREDICTING: trainer.num_predict_batches,
    }
    return batches.get(trainer.state.fn or TrainerFn.FITTING, trainer.num_val_batches)[0]
