"""A last fit on all the data: for a model to serve, once a run has chosen its epochs and measured it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from recbole.config import Config

from dataset_tools.common import write_text
from recbole_unisrec import quick_start
from recbole_unisrec.errors import UserError
from recbole_unisrec.quick_start import Result
from recbole_unisrec.record import say
from recbole_unisrec.refit_names import ENDING

EVERYTHING = {"split": {"ALL": True}, "order": "TO", "group_by": "user", "mode": {"valid": "full", "test": "full"}}


def refit(
    config: Config,
    result: Result,
    verbose: bool = False,
    tell: Callable[[str], None] | None = None,
    resume: bool = False,
) -> Result:
    """Train anew on everything, validation and test included, for as many epochs as were best on validation.

    An epoch is one look at each pair, so a pair weighs as much as in the run before, and there are more steps in the
    measure in which there are more pairs. Nothing is left to measure by: the figures stay those of the run before.

    Parameters
    ----------
    config
        Of the run before.
    result
        What it gave; tells the epochs.
    verbose, tell, resume
        As in `quick_start.train`.

    Returns
    -------
    Result
        With the checkpoint of the new weights, which lies beside the other as ``...-refit.pth``; ``valid`` and ``test``
        are those of the run before, and ``refit`` says so. Also written as JSON beside the checkpoint.

    Raises
    ------
    UserError
        If the run before was best without any training.
    """
    epochs = result.best_epoch + 1
    if epochs < 1:
        raise UserError(f"{result.model} was not trained (epochs 0), so there is nothing to fit again; drop --refit")
    again = copy.deepcopy(config)
    again["eval_args"] = copy.deepcopy(EVERYTHING)
    changed = {"epochs": epochs, "cold_items": None, "train_users": None, **(result.path_start or {})}
    for name, value in changed.items():
        again[name] = value
    tell = tell or say
    tell(f"fitting {result.label} again on all of {result.dataset}, {epochs} epochs as chosen on validation")
    stem = Path(result.checkpoint).with_suffix("")
    found = quick_start.train(again, verbose, tell, resume, checkpoint=f"{stem}{ENDING}.pth")
    found.refit = {
        "figures_of": str(stem.with_suffix(".json").name),
        "epochs": epochs,
        "note": "trained on all pairs, so nothing is left to measure by: valid, test and groups are those of the run before",
    }
    found.valid, found.test, found.groups = result.valid, result.test, result.groups
    write_text(Path(found.checkpoint).with_suffix(".json"), json.dumps(asdict(found), indent=1) + "\n")
    return found
