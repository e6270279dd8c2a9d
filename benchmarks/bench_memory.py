"""Peak memory of loading and training, on a dataset of any size made up on the spot.

    python benchmarks/bench_memory.py --users 1000000 --interactions 10000000 --items 200000 --width 768

Writes RecBole's atomic files and a half-precision feature file (seeded; items are drawn by Zipf's law), then loads and
trains a few steps in a process of its own, and prints resident memory after each stage beside what the data itself
takes and what RecBole's own way of keeping sequences (every prefix padded to 50 int64) would take.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from stages import Stages, show  # noqa: E402


def generate(folder: Path, users: int, interactions: int, items: int, width: int) -> None:
    """Write ``folder/synthetic``."""
    import polars as pl

    rng = np.random.default_rng(0)
    target = folder / "synthetic"
    target.mkdir(parents=True, exist_ok=True)
    # every user has five interactions, the rest fall on users at random
    owner = np.sort(np.concatenate([np.repeat(np.arange(users), 5), rng.integers(0, users, interactions - 5 * users)]))
    rank = np.floor(items ** rng.random(interactions)).astype(np.int64) - 1  # log-uniform, that is Zipf with exponent 1
    item = rng.permutation(items)[rank]
    table = pl.DataFrame({"user_id:token": owner, "item_id:token": item, "timestamp:float": np.arange(interactions)})
    table.write_csv(target / "synthetic.inter", separator="\t")
    pl.DataFrame({"a": np.arange(items), "b": np.arange(items)}).write_csv(
        target / "synthetic.item2index", separator="\t", include_header=False
    )
    with open(target / "synthetic.feat1CLS", "wb") as file:
        for start in range(0, items, 16_384):
            rows = min(16_384, items - start)
            rng.standard_normal((rows, width), dtype=np.float32).astype(np.float16).tofile(file)
    meta = {"encoder": "random", "pooling": "CLS", "width": width, "rows": items, "dtype": "float16"}
    (target / "synthetic.feat1CLS.json").write_text(json.dumps(meta))


def measure(folder: Path, steps: int, batch: int) -> None:
    """Load and train; prints one line of JSON a stage."""
    from recbole.utils import get_trainer

    from recbole_unisrec.memory import keep_freed_memory
    from recbole_unisrec.quick_start import make_data
    from recbole_unisrec.settings import build_config, model_class

    stages = Stages()
    stages.done("libraries")
    overrides = {
        "data_path": str(folder), "train_stage": "inductive_ft", "precision": "bf16", "feature_precision": "bf16",
        "train_batch_size": batch, "show_progress": False, "checkpoint_dir": str(folder / "saved"),
    }  # fmt: skip
    config = build_config("UniSRec", "synthetic", [], overrides)
    data = make_data(config)
    train, valid = data.train, data.valid
    keep_freed_memory()  # as `run_unisrec.py` does
    model = model_class("UniSRec")(config, train._dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], "UniSRec")(config, model)
    stages.done("loaded")
    model.train()
    for number, packed in enumerate(train, 1):
        trainer.optimizer.zero_grad(set_to_none=True)
        with trainer.autocast():
            loss = model.calculate_loss(packed.to(config["device"]))
        loss.backward()
        trainer.optimizer.step()
        if number == steps:
            break
    stages.done(f"{steps} steps of {batch} pairs")
    part = valid._dataset.pairs
    trainer.ranks(type(part)(part.items, part.user[:4096], part.start[:4096], part.target[:4096]))
    stages.done("4,096 users ranked")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--interactions", type=int, default=10_000_000)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/bench_memory"))
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.folder, options.steps, options.batch)
        return
    if options.interactions < 5 * options.users:
        parser.error("give at least five interactions a user")
    generate(options.folder, options.users, options.interactions, options.items, options.width)
    features = options.items * options.width * 2
    data = options.interactions * 3 * 8
    padded = (options.interactions - options.users) * 50 * 8
    print(f"data: {data / 2**20:,.0f} MiB of (user, item, time), {features / 2**20:,.0f} MiB of half-precision features; "
          f"prefixes padded to 50 would be {padded / 2**20:,.0f} MiB\n")  # fmt: skip
    print("| after | seconds | peak MiB |\n|---|---:|---:|")
    show(["--measure"])


if __name__ == "__main__":
    main()
