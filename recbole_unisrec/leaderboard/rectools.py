"""RecTools' UniSRecModel as a row, where the package ``rectools`` is installed; nothing else needs it.

It has neither validation nor candidates beyond the items it trained on, so both are added here: after each epoch the
validation part is ranked, among all items by their texts, and the best epoch's weights are those of the result.
"""

from __future__ import annotations

import copy
import logging
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.utils import init_seed
from torch import Tensor

from recbole_unisrec import quick_start, record
from recbole_unisrec.data.sequences import Pairs
from recbole_unisrec.data.text_dataset import TextDataset
from recbole_unisrec.errors import UserError
from recbole_unisrec.evaluation import TestUsers, write_ranks
from recbole_unisrec.metrics import rank_metrics
from recbole_unisrec.model.losses import ranks_of_scores
from recbole_unisrec.setting_table import EncoderSettings, EvaluationSettings, RunSettings, TrainingSettings

ROWS = 1024  # histories encoded at a time


def check_installed() -> None:
    """Raise `UserError` where RecTools is missing, or has no UniSRecModel."""
    try:
        import pytorch_lightning  # noqa: F401
        from rectools.fast_transformers import UniSRecModel  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"RecTools' UniSRecModel needs rectools 0.19 or newer ({error}); pip install 'rectools[torch]', or drop the row"
        ) from error


def train(config: Any, tell: Callable[[str], None] = record.say) -> quick_start.Result:
    """Train until early stopping, then evaluate the best epoch.

    Parameters
    ----------
    config
        From `settings.build_config`, of a text model. ``hidden_size``, ``n_layers``, ``n_heads``, ``learning_rate``,
        ``train_batch_size``, ``epochs`` and ``stopping_step`` count; the rest is RecTools' defaults.
    tell
        Is told of each epoch.
    """
    check_installed()
    import pytorch_lightning as lightning
    from rectools.fast_transformers import UniSRecModel

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    started = time.perf_counter()
    training, evaluation = TrainingSettings.from_config(config), EvaluationSettings.from_config(config)
    encoder, run = EncoderSettings.from_config(config), RunSettings.from_config(config)
    init_seed(training.seed, training.reproducibility)
    dataset = TextDataset(config)
    dataset.build()
    split, window = dataset.split, dataset.settings.window
    metrics, topk = [m.lower() for m in evaluation.metrics], evaluation.topk
    chosen_by = evaluation.valid_metric.lower()
    epochs: list[dict[str, float]] = []
    best: dict[str, Any] = {"epoch": -1, "score": -1.0, "state": None}

    class Watch(lightning.Callback):
        """Ranks the validation part after each epoch, keeps the best weights, stops when they stay the best."""

        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            ranks = rank(module.net, split.valid, dataset.features.weight[:], window)
            score, epoch = rank_metrics(ranks, metrics, topk)[chosen_by], trainer.current_epoch
            seconds = time.perf_counter() - started - sum(e["seconds"] for e in epochs)
            loss = float(trainer.callback_metrics["train_loss"])
            epochs.append({"epoch": epoch, "loss": loss, "valid_score": score, "seconds": seconds})
            if score > best["score"]:
                best.update(epoch=epoch, score=score, state=copy.deepcopy(module.net.state_dict()))
            mark = "*" if best["epoch"] == epoch else " "
            tell(f"epoch {epoch:>3}  loss {loss:8.4f}  valid {chosen_by.upper()} {score:.4f} {mark}  {seconds:6.1f} s")
            trainer.should_stop = epoch - best["epoch"] > training.stopping_step

    class Model(UniSRecModel):
        def _make_trainer(self, *args: Any, **kwargs: Any) -> Any:
            trainer = super()._make_trainer(*args, **kwargs)
            trainer.callbacks.append(Watch())
            return trainer

    model = Model(
        dataset.features.weight[:],
        n_factors=encoder.hidden_size,
        n_blocks=encoder.n_layers,
        n_heads=encoder.n_heads,
        session_max_len=window,
        lr=training.learning_rate,
        batch_size=training.train_batch_size,
        epochs=max(1, training.epochs),
    )
    start, stop = split.stretches()
    if int((stop - start - 1).sum()) != len(split.train):
        raise UserError("RecTools' row learns whole sequences, and this split leaves gaps in them; drop the row")
    length = stop - start
    sequence = torch.repeat_interleave(torch.arange(len(length)), length)
    within = torch.arange(len(sequence)) - torch.repeat_interleave(length.cumsum(0) - length, length)
    model.fit(sequence, split.items[start[sequence] + within], within)
    model.net.load_state_dict(best["state"])
    ranks = {
        part: rank(model.net, getattr(split, part), dataset.features.weight[:], window) for part in ("valid", "test")
    }
    users = TestUsers.of(dataset)
    tokens = dataset.field2id_token[dataset.uid_field][split.test.user.numpy()].astype(str)
    order = np.lexsort((split.test.target.numpy(), tokens))
    file = Path(run.checkpoint_dir) / "rectools.ranks.npz"
    write_ranks(file, tokens[order], ranks["test"].numpy()[order])
    return quick_start.Result(
        model="RecTools UniSRecModel",
        dataset=run.dataset,
        train_stage=None,
        seed=training.seed,
        valid=dict(rank_metrics(ranks["valid"], metrics, topk)),
        test=dict(rank_metrics(ranks["test"], metrics, topk)),
        epochs=epochs,
        best_epoch=best["epoch"],
        seconds=time.perf_counter() - started,
        groups=quick_start.groups_of(users, tokens[order], ranks["test"].numpy()[order], config),
        checkpoint="",
        ranks=str(file),
        n_parameters=sum(p.numel() for p in model.net.parameters()),
        versions={**record.versions(), "rectools": metadata.version("rectools")},
        config=record.plain(config.final_config_dict),
    )


@torch.no_grad()
def rank(net: Any, pairs: Pairs, features: Tensor, window: int) -> Tensor:
    """Rank of the next item of each pair among all items, int64 [P]; items are known to `net` by `features` alone."""
    was_training, trained_on = net.training, net.frozen_emb
    net.eval()
    net.frozen_emb = features.unsqueeze(1).to(trained_on.device)  # all items, under our ids
    try:
        table = net.project_all()
        found = []
        for index in torch.arange(len(pairs)).split(ROWS):
            rows = pairs.padded(index, window)
            place = torch.arange(window) - (window - (rows != 0).sum(dim=1, keepdim=True))
            left = torch.where(place >= 0, rows.gather(1, place.clamp(min=0)), 0)
            scores = net.encode_last(left.to(table.device)) @ table.T
            found.append(ranks_of_scores(scores, pairs.items[pairs.target[index]].to(table.device)).cpu())
        return torch.cat(found)
    finally:
        net.frozen_emb = trained_on
        net.train(was_training)
