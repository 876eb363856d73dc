"""Faults of decoders as errors of one line, which name the class and the example."""

from collections.abc import Collection
from operator import index
from typing import Any

from promptstage.datamodules.encoding import Batch
from promptstage.utilities.errors import UserError
from promptstage.utilities.recorded import class_path, is_own


class DecoderFault(UserError):
    """Mistake in a decoder: resuming helps only once the decoder is corrected."""


def fault(decoder: object, text: str) -> DecoderFault:
    """Return an error that names a decoder's class."""
    cls = type(decoder)
    return DecoderFault(f"decoder {cls.__name__ if is_own(cls) else class_path(cls)} {text}")


def of_batch(batch: Batch | None) -> str:
    """Return a clause that names a batch, for messages; empty without one."""
    if batch is None:
        return ""
    if not len(batch):
        return " for an empty batch"
    return f" for the batch of {len(batch)} that begins with example {batch.examples[0].id}"


def check_outputs(decoder: object, call: str, batch: Batch, outputs: Any, vocabulary: int) -> None:
    """Check that there is one list of token ids for each example of a batch.

    Raises:
        DecoderFault: naming the first example without one.
    """
    form = f"must pass {call} a list of token ids for each of {len(batch)} examples"
    if not isinstance(outputs, Collection) or isinstance(outputs, str):
        raise fault(decoder, f"{form}, got {outputs!r:.60}{of_batch(batch)}")
    if len(outputs) != len(batch):
        extra = len(outputs) > len(batch)
        last = "" if extra else f": example {batch.examples[len(outputs)].id} has none"
        raise fault(decoder, f"{form}, got {len(outputs)}{of_batch(batch) if extra else last}")
    for example, output in zip(batch.examples, outputs, strict=True):
        try:
            valid = not isinstance(output, str) and all(0 <= index(token) < vocabulary for token in output)
        except TypeError:
            valid = False
        if not valid:
            raise fault(decoder, f"{form} (from 0 to {vocabulary - 1}), got {output!r:.60} for {example.id}")
