"""Catalogues of millions: memory and time of loading, of a step and of ranking, on a dataset made up on the spot.

    python benchmarks/bench_scale.py --users 10000000 --interactions 100000000 --items 5000000 --memory 18

Each model loads and trains some steps of a loss over a sample in a process of its own: SASRecPacked, whose ID embeddings
learn row by row, and UniSRec, whose text features stay in their file. Peaks are of resident memory, pages of the mapped
feature file included. The files are those of `bench_memory.py`; a folder that holds them is used again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from stages import Stages, show  # noqa: E402

WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "SASRecPacked, sampled, rows": ("SASRecPacked", {"loss": "sampled"}),
    "SASRecPacked, gBCE, rows": ("SASRecPacked", {"loss": "gbce"}),
    "SASRecPacked, sampled, Adam": ("SASRecPacked", {"loss": "sampled", "item_optimizer": "adam"}),
    "UniSRec inductive, sampled, features on disk": ("UniSRec", {"train_stage": "inductive_ft", "loss": "sampled", "features_on": "disk"}),
    "UniSRec transductive, sampled, features on disk": ("UniSRec", {"train_stage": "transductive_ft", "loss": "sampled", "features_on": "disk"}),
}  # fmt: skip
DEFAULT = ["SASRecPacked, sampled, rows", "UniSRec inductive, sampled, features on disk"]


def measure(options: argparse.Namespace) -> None:
    """One way; prints one line of JSON a stage."""
    from recbole.utils import get_trainer

    from recbole_unisrec.memory import keep_freed_memory
    from recbole_unisrec.quick_start import make_data
    from recbole_unisrec.settings import build_config, model_class

    stages = Stages()
    name, settings = WAYS[options.way]
    config = build_config(name, "synthetic", [], {
        **settings, "data_path": str(options.folder), "precision": options.precision, "n_negatives": options.negatives,
        "train_batch_size": options.batch, "eval_users": options.ranked, "show_progress": False,
        "checkpoint_dir": str(options.folder / "saved"),
    })  # fmt: skip
    stages.done("libraries")
    data = make_data(config)
    train, valid = data.train, data.valid
    stages.done("dataset")
    keep_freed_memory()  # as `run_unisrec.py` does
    model = model_class(name)(config, train._dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
    stages.done("model")
    model.train()
    seconds, losses = [], []
    started = time.perf_counter()
    for number, batch in enumerate(train, 1):
        trainer.optimizer.zero_grad(set_to_none=True)
        with trainer.autocast():
            loss = model.calculate_loss(batch.to(config["device"]))
        loss.backward()
        trainer.move_weights()
        losses.append(float(loss))
        seconds.append(time.perf_counter() - started)
        started = time.perf_counter()
        if number == 2 + options.steps:
            break
    stages.done(
        f"a step (median of {len(seconds) - 2}; loss {losses[0]:.2f} to {losses[-1]:.2f})",
        statistics.median(seconds[2:]),
    )
    trainer.ranks(valid._dataset.pairs)
    stages.done(f"{len(valid._dataset.pairs):,} users ranked among all items")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=2_000_000)
    parser.add_argument("--interactions", type=int, default=20_000_000)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--negatives", type=int, default=8192)
    parser.add_argument("--ranked", type=int, default=1000, help="users to rank")
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=DEFAULT)
    parser.add_argument("--memory", type=float, default=4.0, help="GiB that must be available at the start")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/bench_scale"))
    parser.add_argument("--way", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        measure(options)
        return
    if options.interactions < 5 * options.users:
        parser.error("give at least five interactions a user")
    check_room(options)
    size = {name: getattr(options, name) for name in ("users", "interactions", "items", "width")}
    mark = options.folder / "size.json"
    if not mark.is_file() or json.loads(mark.read_text()) != size:
        import bench_memory

        bench_memory.generate(options.folder, options.users, options.interactions, options.items, options.width)
        mark.write_text(json.dumps(size))
    print("| way | after | seconds | peak MiB |\n|---|---|---:|---:|")
    for way in options.ways:
        show(["--way", way], way)


def check_room(options: argparse.Namespace) -> None:
    """End with a sentence if the machine has not the memory or the disk that this size takes."""
    there = int(
        next(
            line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable")
        ).split()[1]
    )
    if there < options.memory * 2**20:
        raise SystemExit(
            f"{there / 2**20:.1f} GiB of memory are available, {options.memory} are asked for; free some, or set --memory"
        )
    options.folder.mkdir(parents=True, exist_ok=True)
    needed = options.interactions * 30 + options.items * (
        options.width * 2 + 20
    )  # bytes: a line of text, a row of features
    free = shutil.disk_usage(options.folder).free
    if free < needed:
        raise SystemExit(
            f"{options.folder} has {free / 2**30:.1f} GiB free, the files take {needed / 2**30:.1f}; give another --folder"
        )


if __name__ == "__main__":
    main()
