"""Seconds until a validation score: our ways as they are, and the authors' code by its seconds a step.

    python benchmarks/bench_score.py --data_path dataset --authors_step 31

The plain path (``--train_mode=prefix``) computes what the authors' code computes, so the authors' code needs the plain
path's number of steps, each of AUTHORS_STEP seconds (from bench_training.py, on the same machine). Evaluation after each
epoch counts for ours and is left out for theirs. `--plain_steps` takes the number of steps from an earlier run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
WAYS: dict[str, dict[str, Any]] = {
    "packed, bf16": {"precision": "bf16"},
    "packed, fp32": {},
    "prefix, fp32": {"train_mode": "prefix"},
}


def measure(options: argparse.Namespace) -> None:
    """Train one way until the score is reached; prints seconds, steps and epochs as JSON."""
    import torch
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_trainer, init_seed

    from recbole_unisrec.memory import keep_freed_memory
    from recbole_unisrec.settings import build_config, model_class

    torch.set_num_threads(options.threads)
    config = build_config("UniSRec", options.dataset, [], {
        **WAYS[options.way], "train_stage": "inductive_ft", "data_path": options.data_path, "show_progress": False,
        "checkpoint_dir": options.scratch, "seed": options.seed, "topk": [10], "metrics": ["NDCG"],
    })  # fmt: skip
    keep_freed_memory()
    init_seed(config["seed"], reproducibility=True)
    train, valid, _ = data_preparation(config, create_dataset(config))
    trainer = get_trainer(config["MODEL_TYPE"], "UniSRec")(config, model_class("UniSRec")(config, train._dataset))
    started = time.perf_counter()
    for epoch in range(config["epochs"]):
        trainer._train_epoch(train, epoch)
        score = trainer.evaluate(valid, load_best_model=False)["ndcg@10"]
        if score >= options.score:
            found = {"s": time.perf_counter() - started, "steps": (epoch + 1) * len(train), "epochs": epoch + 1}
            print(json.dumps(found))
            return
    raise SystemExit(f"{options.way} did not reach {options.score} in {config['epochs']} epochs; ask for less")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="Scientific")
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--score", type=float, default=0.068, help="validation NDCG@10 (default: 0.068)")
    parser.add_argument("--authors_step", type=float, required=True, help="seconds of a step of the authors' code")
    parser.add_argument("--plain_steps", type=int, help="steps of the plain path; default: measured")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=2020)
    parser.add_argument("--scratch", default="/tmp/bench_score", help=argparse.SUPPRESS)
    parser.add_argument("--way", choices=list(WAYS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        measure(options)
        return
    found = {}
    for way in WAYS:
        if way.startswith("prefix") and options.plain_steps:
            continue
        command = [sys.executable, "-W", "ignore", *sys.argv, "--way", way]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found[way] = json.loads(done.stdout.splitlines()[-1])
    steps = options.plain_steps or found["prefix, fp32"]["steps"]
    theirs = steps * options.authors_step
    print(
        f"| until validation NDCG@10 {options.score} | epochs | steps | seconds | times sooner |\n|---|" + "---:|" * 4
    )
    print(f"| authors' code, by its seconds a step | | {steps} | {theirs:,.0f} | 1.0 |")
    for way, f in found.items():
        print(f"| {way} | {f['epochs']} | {f['steps']} | {f['s']:.1f} | {theirs / f['s']:.0f} |")


if __name__ == "__main__":
    main()
