"""Train this project's models and its peers' on one dataset, from the same text features, under one protocol.

    python benchmarks/bench_peers.py --dataset Scientific --data_path dataset \
        --rectools-python /path/to/venv/bin/python --replay-python /path/to/other/bin/python

The first venv holds ``rectools[torch]``, the second ``replay-rec[torch]``; a peer without a venv is left out, with a line
that says so. Each way is a process of its own with the same number of threads. After each epoch every validation user
is ranked against all items; training stops after PATIENCE epochs without a better NDCG@10, or when LIMIT seconds are
spent. Seconds are those of training and validation; test metrics are of the best epoch. Items that a peer never saw in
training cannot be ranked by it and count as misses. `SETTINGS` has what differs from the peers' defaults.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
WINDOW = 50
ROWS = 512  # users ranked at a time
OURS = {
    "UniSRec inductive": ("UniSRec", {"train_stage": "inductive_ft"}),
    "UniSRec transductive": ("UniSRec", {"train_stage": "transductive_ft"}),
    "SASRecPacked": ("SASRecPacked", {}),
}
# RecTools' UniSRec learns slowly at its own rate of 1e-4; 300-d, 2 heads and 50 items are this dataset's usual sizes
SETTINGS: dict[str, dict[str, Any]] = {
    "RecTools UniSRec": {
        "n_factors": 300, "n_heads": 2, "session_max_len": WINDOW, "batch_size": 256, "lr": 4e-4, "dropout": 0.3,
    },
    "RecTools SASRec": {"session_max_len": WINDOW, "n_factors": 256, "batch_size": 128, "lr": 1e-3, "dropout_rate": 0.3},
    "RePlay SASRec": {"max_sequence_length": WINDOW, "embedding_dim": 256, "num_heads": 2, "dropout": 0.3},
}  # fmt: skip
REPLAY_BATCH, REPLAY_RATE = 128, 1e-3  # of a loop by hand: RePlay leaves both to the user


class Clock:
    """Keeps the time and the best epoch of a training run; prints a line of JSON an epoch."""

    def __init__(self, data: Any, options: argparse.Namespace) -> None:
        self.data, self.patience, self.limit = data, options.patience, options.limit
        self.epoch, self.spent, self.best, self.best_epoch = 0, 0.0, -1.0, 0
        self.mark = time.perf_counter()

    def epoch_done(self, ranks: Any) -> bool:
        """Call after an epoch; ``ranks(part)`` gives the ranks of a part's users. Returns whether to stop."""
        trained = time.perf_counter()
        score = metrics(ranks("valid"))["ndcg@10"]
        now = time.perf_counter()
        self.epoch, self.spent = self.epoch + 1, self.spent + now - self.mark
        line = {"epoch": self.epoch, "train": trained - self.mark, "spent": self.spent, "valid": score}
        if score > self.best:
            self.best, self.best_epoch = score, self.epoch
            line["test"] = metrics(ranks("test"))
        print(json.dumps(line), flush=True)
        self.mark = time.perf_counter()
        return self.epoch - self.best_epoch >= self.patience or self.spent > self.limit


def metrics(ranks: np.ndarray) -> dict[str, float]:
    """HIT and NDCG at 10 and 50 of ranks, 1 is best."""
    found = {}
    for k in (10, 50):
        near = ranks[ranks <= k]
        found[f"hit@{k}"] = len(near) / len(ranks)
        found[f"ndcg@{k}"] = float((1 / np.log2(near + 1)).sum() / len(ranks))
    return found


def rank_all(data: Any, part: str, row_of: np.ndarray, padding: int, scores_of: Any) -> np.ndarray:
    """Ranks of a part's users from a peer's scores.

    Parameters
    ----------
    row_of
        int64 [n_items + 1] the peer's number of each item, -1 if it does not know it.
    padding
        The peer's number of no item; histories are padded on the left.
    scores_of
        Maps int64 histories [B, WINDOW] to scores [B, columns], one column for each number; that of `padding`, if any,
        is -inf.
    """
    import torch

    ranks = []
    for block in np.split(np.arange(len(data[f"{part}_start"])), range(ROWS, len(data[f"{part}_start"]), ROWS)):
        histories = np.full((len(block), WINDOW), padding)
        for row, user in enumerate(block):
            known = row_of[data["items"][data[f"{part}_start"][user] : data[f"{part}_target"][user]]]
            known = known[known >= 0]
            histories[row, WINDOW - len(known) :] = known
        target = torch.from_numpy(row_of[data["items"][data[f"{part}_target"][block]]])
        with torch.no_grad():
            scores = scores_of(torch.from_numpy(histories))
            mine = scores.gather(1, target.clamp(min=0).unsqueeze(1))
            rank = 1 + (scores > mine).sum(dim=1)
        ranks.append(torch.where(target < 0, scores.shape[1] + 1, rank))
    return torch.cat(ranks).numpy()


def training_rows(data: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """User, item and time of each training interaction."""
    length = data["train_stop"] - data["train_start"]
    user = np.repeat(np.arange(len(length)), length)
    time_ = np.arange(len(user)) - np.repeat(np.cumsum(length) - length, length)
    return user, data["items"][np.repeat(data["train_start"], length) + time_], time_


def run_ours(way: str, data: Any, options: argparse.Namespace) -> None:
    """One of this project's models, through RecBole's configuration and trainer."""
    sys.path.insert(0, str(ROOT))
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_trainer, init_seed

    from recbole_unisrec.memory import keep_freed_memory
    from recbole_unisrec.settings import build_config, model_class

    name, settings = OURS[way]
    config = build_config(name, options.dataset, [], {
        **settings, "data_path": options.data_path, "precision": "bf16", "show_progress": False,
        "checkpoint_dir": options.scratch, "seed": options.seed, "use_gpu": False,
    })  # fmt: skip
    keep_freed_memory()
    init_seed(config["seed"], reproducibility=True)
    train, valid, test = data_preparation(config, create_dataset(config))
    model = model_class(name)(config, train._dataset)
    trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
    pairs = {"valid": valid._dataset.pairs, "test": test._dataset.pairs}
    clock = Clock(data, options)
    while True:
        trainer._train_epoch(train, clock.epoch)
        if clock.epoch_done(lambda part: trainer.ranks(pairs[part]).numpy()):
            return


def stopper(clock: Clock, ranks: Any) -> Any:
    """A Lightning callback that ranks after each epoch, with ``ranks(module, part)``."""
    from pytorch_lightning.callbacks import Callback

    class Stop(Callback):
        def __deepcopy__(self, memo: Any) -> Any:
            return self  # RecTools copies its trainer

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            pl_module.eval()
            trainer.should_stop = clock.epoch_done(lambda part: ranks(pl_module, part))
            pl_module.train()

    return Stop()


def run_rectools_unisrec(data: Any, options: argparse.Namespace) -> None:
    import pytorch_lightning as pl
    import torch
    from rectools.fast_transformers.unisrec import UniSRecModel

    clock = Clock(data, options)
    user, item, when = (torch.from_numpy(values) for values in training_rows(data))
    row_of = np.full(len(data["features"]), -1)
    known = np.unique(item.numpy())
    row_of[known] = 1 + np.arange(len(known))

    def ranks(module: Any, part: str) -> np.ndarray:
        table = module.net.project_all().detach()

        def scores(histories: Any) -> Any:
            found = module.net.encode_last(histories) @ table.T
            found[:, 0] = float("-inf")
            return found

        return rank_all(data, part, row_of, 0, scores)

    class Model(UniSRecModel):
        def _make_trainer(self, max_epochs: int, val_dl: Any = None) -> Any:
            return pl.Trainer(
                max_epochs=max_epochs, gradient_clip_val=self.grad_clip, callbacks=[stopper(clock, ranks)],
                enable_checkpointing=False, enable_model_summary=False, logger=False, enable_progress_bar=False,
            )  # fmt: skip

    model = Model(torch.from_numpy(data["features"]), epochs=1000, **SETTINGS["RecTools UniSRec"])
    clock.mark = time.perf_counter()
    model.fit(user, item, when)


def run_rectools_sasrec(data: Any, options: argparse.Namespace) -> None:
    import pandas as pd
    from pytorch_lightning import Trainer
    from rectools import Columns
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel

    clock = Clock(data, options)
    user, item, when = training_rows(data)
    frame = pd.DataFrame({Columns.User: user, Columns.Item: item, Columns.Weight: 1.0})
    frame[Columns.Datetime] = pd.Timestamp("2020-01-01") + pd.to_timedelta(when, unit="s")

    def ranks(module: Any, part: str) -> np.ndarray:
        row_of = np.full(len(data["features"]), -1)
        for internal, external in enumerate(model.data_preparator.item_id_map.external_ids):
            if internal >= model.data_preparator.n_item_extra_tokens:
                row_of[external] = internal
        net = module.torch_model
        table = net.item_model.get_all_embeddings().detach()

        def scores(histories: Any) -> Any:
            last = net.encode_sessions({"x": histories}, table)[:, -1]
            found = (
                net.similarity_module.session_tower_forward(last) @ net.similarity_module.item_tower_forward(table).T
            )
            found[:, 0] = float("-inf")
            return found

        return rank_all(data, part, row_of, 0, scores)

    def trainer() -> Any:
        return Trainer(
            max_epochs=1000, enable_progress_bar=False, enable_model_summary=False, logger=False,
            enable_checkpointing=False, devices=1, accelerator="cpu", callbacks=[stopper(clock, ranks)],
        )  # fmt: skip

    model = SASRecModel(get_trainer_func=trainer, recommend_torch_device="cpu", **SETTINGS["RecTools SASRec"])
    clock.mark = time.perf_counter()
    model.fit(Dataset.construct(frame))


def run_replay_sasrec(data: Any, options: argparse.Namespace) -> None:
    import torch
    from replay.data import FeatureHint, FeatureSource, FeatureType
    from replay.data.nn import TensorFeatureInfo, TensorFeatureSource, TensorSchema
    from replay.nn.sequential import SasRec

    clock = Clock(data, options)
    settings = SETTINGS["RePlay SASRec"]
    n_items = len(data["features"]) - 1
    schema = TensorSchema([
        TensorFeatureInfo(
            "item_id", is_seq=True, feature_type=FeatureType.CATEGORICAL, embedding_dim=settings["embedding_dim"],
            padding_value=n_items, cardinality=n_items, feature_hint=FeatureHint.ITEM_ID,
            feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, "item_id")],
        )
    ])  # fmt: skip
    model = SasRec.from_params(schema, **settings)
    optimizer = torch.optim.Adam(model.parameters(), lr=REPLAY_RATE)
    row_of = np.arange(-1, n_items)  # item 0 is padding here, and number n_items there
    length = data["train_stop"] - data["train_start"]
    inputs = np.full((len(length), WINDOW + 1), n_items)
    for user, (start, stop) in enumerate(zip(data["train_start"], data["train_stop"], strict=True)):
        mine = row_of[data["items"][start:stop]][-WINDOW - 1 :]
        inputs[user, WINDOW + 1 - len(mine) :] = mine
    rows = torch.from_numpy(inputs)

    def scores(histories: Any) -> Any:
        return model.forward_inference({"item_id": histories}, histories != n_items)["logits"]

    def ranks(part: str) -> np.ndarray:
        model.eval()
        return rank_all(data, part, row_of, n_items, scores)

    clock.mark = time.perf_counter()
    stop = False
    while not stop:
        model.train()
        for block in torch.randperm(len(rows)).split(REPLAY_BATCH):
            x, y = rows[block, :-1], rows[block, 1:].unsqueeze(-1)
            loss = model.forward_train({"item_id": x}, x != n_items, y, None, y != n_items)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        stop = clock.epoch_done(ranks)


PEERS = {
    "RecTools UniSRec": ("rectools", run_rectools_unisrec),
    "RecTools SASRec": ("rectools", run_rectools_sasrec),
    "RePlay SASRec": ("replay", run_replay_sasrec),
}


def write_data(options: argparse.Namespace, file: Path) -> int:
    """Write the split and the features as arrays; gives the number of training pairs."""
    sys.path.insert(0, str(ROOT))
    from recbole_unisrec.data.text_dataset import TextDataset
    from recbole_unisrec.settings import build_config

    config = build_config("UniSRec", options.dataset, [], {"data_path": options.data_path})
    dataset = TextDataset(config)
    train, *_ = dataset.build()
    split = dataset.split
    parts = {f"{n}_{f}": getattr(getattr(split, n), f).numpy() for n in ("valid", "test") for f in ("start", "target")}
    start, stop = split.stretches()
    np.savez(
        file, items=split.items.numpy(), train_start=start.numpy(), train_stop=stop.numpy(), features=dataset.features.weight.numpy(), **parts,
    )  # fmt: skip
    return len(train)


def child(options: argparse.Namespace) -> None:
    import torch

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    with np.load(Path(options.scratch) / "data.npz") as found:
        data = dict(found)
    if options.way in OURS:
        run_ours(options.way, data, options)
    else:
        PEERS[options.way][1](data, options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="Scientific")
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--rectools-python", help="interpreter that has rectools[torch]")
    parser.add_argument("--replay-python", help="interpreter that has replay-rec[torch]")
    parser.add_argument("--ways", nargs="+", choices=[*OURS, *PEERS], default=[*OURS, *PEERS])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--patience", type=int, default=10)
    parser.add_argument("--limit", type=float, default=3600, help="seconds of a way at most (default: 3600)")
    parser.add_argument("--seed", type=int, default=2020)
    parser.add_argument("--scratch", default="/tmp/bench_peers", help=argparse.SUPPRESS)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        child(options)
        return
    Path(options.scratch).mkdir(parents=True, exist_ok=True)
    n_pairs = write_data(options, Path(options.scratch) / "data.npz")
    interpreters = {"rectools": options.rectools_python, "replay": options.replay_python}
    print(f"{options.dataset}, {n_pairs:,} training pairs, {options.threads} threads\n")
    print("| way | pairs/s | s an epoch | epochs | s to best | valid NDCG@10 | HIT@10 | NDCG@10 | HIT@50 | NDCG@50 |\n"
          "|---|" + "---:|" * 9)  # fmt: skip
    for way in options.ways:
        python = sys.executable if way in OURS else interpreters[PEERS[way][0]]
        if python is None:
            print(f"| {way} | left out: no --{PEERS[way][0]}-python" + " | " * 8 + "|", flush=True)
            continue
        command = [python, "-W", "ignore", *sys.argv, "--way", way, "--threads", str(options.threads)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        epochs = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"epoch"')]
        best = [epoch for epoch in epochs if "test" in epoch][-1]
        seconds, test = statistics.median(epoch["train"] for epoch in epochs), best["test"]
        cells = " | ".join(f"{test[name]:.4f}" for name in ("hit@10", "ndcg@10", "hit@50", "ndcg@50"))
        stopped = "" if len(epochs) - best["epoch"] >= options.patience else "+"  # LIMIT came first
        print(f"| {way} | {n_pairs / seconds:,.0f} | {seconds:.1f} | {best['epoch']}{stopped} | {best['spent']:.0f} "
              f"| {best['valid']:.4f} | {cells} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
