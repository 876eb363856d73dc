"""Calls of decoders by the evaluation loop: exceptions in one line, and one record for each example."""

import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from promptstage.datamodules.encoding import Batch
from promptstage.lightning_modules.decoding.decoder import Decoder, all_decoders
from promptstage.lightning_modules.decoding.faults import fault, of_batch
from promptstage.lightning_modules.decoding.records import Record
from promptstage.utilities.errors import UserError
from promptstage.utilities.failures import run_failure
from promptstage.utilities.processes import connection_lost
from promptstage.utilities.recorded import is_own
from promptstage.utilities.user_code import describe_error

# Types of a record's fields; those that are not listed are only written.
FIELDS: dict[str, tuple[Any, str]] = {
    "id": (str, "a text"),
    "generation": (str, "a text"),
    "prediction": (str | None, "a text or None"),
    "reference": (str, "a text"),
    "correct": (bool, "a bool"),
    "reason": (str, "a text"),
    "new_tokens": (int, "an integer"),
}


@contextmanager
def decoder_faults(decoder: Decoder, call: str, batch: Batch | None = None) -> Iterator[None]:
    """Report exceptions of the user's decoders in one line.

    Exceptions of promptstage's own decoders pass, as do those about memory, non-finite values and lost ranks.

    Args:
        call: name of the method that is called.
        batch: its batch, if it has one.

    Raises:
        DecoderFault: naming the decoder, the batch's first example and the cause.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        custom = any(not is_own(type(part)) for part in all_decoders(decoder))
        if not custom or run_failure(error) is not None or connection_lost(error):
            raise
        culprit = _innermost(error) or decoder
        raise fault(culprit, f"failed in {call}{of_batch(batch)}: {describe_error(error)}") from error


def _innermost(error: BaseException) -> Any:
    """Return the user's decoder whose method raised ``error``, if there is one."""
    owners = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
    users = [owner for owner in owners if isinstance(owner, Decoder) and not is_own(type(owner))]
    return users[-1] if users else None


class Ledger:
    """Examples of an evaluation that still need a record; checks the records of its decoder."""

    def __init__(self) -> None:
        self._waiting: Counter[str] = Counter()
        self._finished: set[str] = set()
        self._complete = True
        self._count = 0

    def add(self, batch: Batch) -> None:
        """Expect a record for each example of a batch."""
        self._waiting.update(example.id for example in batch.examples)
        self._count += len(batch)

    def allow_missing(self) -> None:
        """Accept examples without a record, after a failure that is reported at the end of the epoch."""
        self._complete = False

    def check(self, decoder: Decoder, call: str, records: Any, batch: Batch | None = None) -> list[Record]:
        """Check what a call returned.

        Raises:
            DecoderFault: naming the first example with a record that is invalid, repeated or not expected.
        """
        if not isinstance(records, Sequence) or isinstance(records, str | Record):
            raise fault(
                decoder, f"must return a list of records from {call}, got {records!r:.60}{of_batch(batch)}"
            )
        for record in records:
            self._check_record(decoder, call, record, batch)
        return list(records)

    def _check_record(self, decoder: Decoder, call: str, record: Any, batch: Batch | None) -> None:
        if not isinstance(record, Record):
            what = f"must return records (which self.grade makes) from {call}"
            raise fault(decoder, f"{what}, got {record!r:.60}{of_batch(batch)}")
        for name, (kind, expected) in FIELDS.items():
            value = getattr(record, name)
            if not isinstance(value, kind):
                where = f"returned a record of example {record.id!s:.80} whose field '{name}'"
                raise fault(decoder, f"{where} must be {expected}, got {value!r:.60}")
        if not self._waiting[record.id]:
            if record.id in self._finished:
                raise fault(decoder, f"returned a second record for example {record.id}")
            raise fault(
                decoder, f"returned a record for {record.id!r:.80}, which is no example of its batches"
            )
        self._waiting[record.id] -= 1
        self._finished.add(record.id)

    def finish(self, decoder: Decoder) -> int:
        """Check, after the last batch, that each example has its record.

        Returns:
            number of examples without one, if that is allowed; at least 1, since one of them has failed.

        Raises:
            DecoderFault: naming the first example without one.
        """
        missing = list(self._waiting.elements())
        if not self._complete:
            return max(len(missing), 1)
        if missing:
            raise fault(
                decoder,
                f"returned no record for {len(missing)} of {self._count} examples, first {missing[0]}",
            )
        return 0
