"""Detection of failed runs, such as running out of memory, from exceptions of libraries."""

import re

from promptstage.utilities.errors import RunFailure

# Messages of torch where it raises a plain RuntimeError instead of OutOfMemoryError.
_ALLOCATION = re.compile(
    r"out of memory|can't allocate memory|not enough memory|std::bad_alloc|CUBLAS_STATUS_ALLOC_FAILED"
)
_REQUEST = re.compile(r"allocate (\d[\d.]* ?(?:[KMGT]i?B|bytes))")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether ``error`` reports that the processor or a GPU has no memory left."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and _ALLOCATION.search(str(error)) is not None
    )


def run_failure(error: BaseException | None) -> RunFailure | None:
    """Return the failure that ``error`` or one of its causes reports; None for any other error."""
    while error is not None:
        if is_out_of_memory(error):
            request = _REQUEST.search(str(error))
            amount = f" (allocating {request.group(1)})" if request else ""
            return RunFailure(
                f"out of memory{amount}: reduce --data.batch_size or --data.batch_tokens (and increase "
                "--trainer.accumulate_grad_batches to keep the number of examples per step) or "
                "--data.eval_batch_size, or set --backbone.gradient_checkpointing true or "
                "--backbone.dtype bfloat16"
            )
        if isinstance(error, FloatingPointError):
            return RunFailure(str(error))
        error = error.__cause__ or error.__context__
    return None
