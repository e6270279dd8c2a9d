"""What may go wrong inside a library while a model trains, said in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from recbole_unisrec.errors import UserError


@contextmanager
def in_one_sentence(checkpoint: str) -> Iterator[None]:
    """Training goes on within.

    Parameters
    ----------
    checkpoint
        Where the best weights so far are, if any.

    Raises
    ------
    UserError
        If the loss is no number, or a file (the checkpoint, the log, TensorBoard's) cannot be written.
    """
    kept = f"(the best checkpoint so far, if any, is {checkpoint})"
    try:
        yield
    except OSError as error:
        file = error.filename or "a file of the run (its log or TensorBoard's)"
        raise UserError(
            f"cannot write {file}: {error.strerror or error}; free some space and train again {kept}"
        ) from error
    except ValueError as error:
        if "loss is nan" not in str(error):
            raise
        raise UserError(f"the loss is not finite; lower learning_rate or set clip_grad_norm {kept}") from error
