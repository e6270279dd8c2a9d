"""Measure fine-tuning and full-ranking evaluation: the authors' code against ours, same data, features and machine.

    python benchmarks/bench_training.py --dataset Scientific --data_path dataset --authors ../UniSRec

AUTHORS is a checkout of the authors' repository; its own model runs on RecBole's own padded batches. Every way is a
process of its own, so that peak memory is its own (with --gpu: of the GPU); the ways take turns, and times are medians
over steps. Without --authors our plain path (train_mode: prefix, the same arithmetic as the authors') is the reference.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

STAGES = {"inductive": "inductive_ft", "transductive": "transductive_ft"}
# what removes the page faults of the authors' code, see mallopt(3)
HUGE_PAGES = {
    "THP_MEM_ALLOC_ENABLE": "1",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184",
}
# name -> (settings, environment)
WAYS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "authors": ({"anomaly": True}, {}),
    "authors-tuned": ({"anomaly": False}, HUGE_PAGES),
    "ours-prefix": ({"train_mode": "prefix"}, {}),
    "ours-fp32": ({"train_mode": "packed"}, {}),
    "ours-bf16": ({"train_mode": "packed", "precision": "bf16"}, {}),
}


def authors_model(folder: Path) -> Any:
    """The authors' model class."""
    spec = importlib.util.spec_from_file_location("authors_unisrec", folder / "unisrec.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.UniSRec


def measure(options: argparse.Namespace) -> dict[str, float]:
    """One way and stage, in this process: seconds of a step, pairs in it, users ranked a second, peak memory."""
    import torch
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_trainer, init_seed

    from recbole_unisrec.memory import keep_freed_memory, peak_memory
    from recbole_unisrec.settings import build_config, model_class

    torch.set_num_threads(options.threads)
    settings, _ = WAYS[options.way]
    theirs = options.way.startswith("authors")
    overrides: dict[str, Any] = {
        "train_stage": STAGES[options.stage], "data_path": options.data_path, "show_progress": False,
        "checkpoint_dir": options.scratch, "use_gpu": options.gpu,
        **({"train_mode": "prefix"} if theirs else settings),
    }  # fmt: skip
    config = build_config("UniSRec", options.dataset, [], overrides)
    init_seed(config["seed"], reproducibility=True)
    if not theirs:
        keep_freed_memory()
    train, valid, _ = data_preparation(config, create_dataset(config))
    dataset = train._dataset
    device = config["device"]
    if theirs:
        torch.autograd.set_detect_anomaly(settings["anomaly"])
        width = dataset.features.width
        config["adaptor_layers"] = [width, config["hidden_size"]]
        config["adaptor_dropout_prob"] = 0.2
        dataset.plm_embedding = torch.nn.Embedding.from_pretrained(dataset.features.weight, padding_idx=0)
        model = authors_model(options.authors)(config, dataset).to(device)
        optimizer = torch.optim.Adam(model.parameters(), lr=config["learning_rate"])

        def step(batch: Any) -> int:
            optimizer.zero_grad()
            loss = model.calculate_loss(batch)
            loss.backward()
            optimizer.step()
            return len(batch)
    else:
        model = model_class("UniSRec")(config, dataset).to(device)
        trainer = get_trainer(config["MODEL_TYPE"], "UniSRec")(config, model)

        def step(batch: Any) -> int:
            trainer.optimizer.zero_grad(set_to_none=True)
            with trainer.autocast():
                loss = model.calculate_loss(batch)
            loss.backward()
            trainer.optimizer.step()
            return len(batch)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    model.train()
    seconds, pairs = [], []
    n_steps = options.slow_steps if theirs else options.steps
    while len(seconds) < n_steps + 1:
        for batch in train:
            wait()
            started = time.perf_counter()
            pairs.append(step(batch.to(device)))
            wait()
            seconds.append(time.perf_counter() - started)
            if len(seconds) == n_steps + 1:  # the first one warms up
                break
    torch.autograd.set_detect_anomaly(False)
    training_peak = peak_memory(device.type == "cuda")
    model.eval()
    users_a_second = []
    for _ in range(1 if theirs else 3):
        wait()
        started = time.perf_counter()
        if theirs:
            n_users = rank_as_recbole(model, valid, options.eval_batches)
        else:
            trainer.model.train()
            n_users = len(trainer.ranks(valid._dataset.pairs))
        wait()
        users_a_second.append(n_users / (time.perf_counter() - started))
    return {
        "step": statistics.median(seconds[1:]),
        "pairs": statistics.median(pairs),
        "users_a_second": statistics.median(users_a_second),
        "peak": training_peak,
        "epoch_pairs": len(dataset),
        "n_items": dataset.item_num,
        "width": dataset.features.width,
    }


def rank_as_recbole(model: Any, data: Any, n_batches: int) -> int:
    """Scores and RecBole's top-k over a number of evaluation batches; gives the number of users."""
    import torch

    n_users = 0
    with torch.no_grad():
        for _, (batch, *_) in zip(range(n_batches), data, strict=False):
            scores = model.full_sort_predict(batch.to(model.device))
            scores[:, 0] = float("-inf")
            torch.topk(scores, 50, dim=-1)
            n_users += len(batch)
    return n_users


def gemm_peak(threads: int, gpu: bool) -> dict[str, float]:
    """Operations a second of a large matrix product, by type: the limit on this machine."""
    import torch

    torch.set_num_threads(threads)
    found = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a = torch.randn(4096, 4096, dtype=dtype, device="cuda" if gpu else "cpu")
        seconds = []
        for _ in range(6):
            started = time.perf_counter()
            a @ a
            if gpu:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
        found[name] = 2 * 4096**3 / statistics.median(seconds[1:])
    return found


def useful_operations(
    pairs: float, n_items: float, width: float, d: int = 300, inner: int = 256, n_exps: int = 8
) -> float:
    """Multiplications and additions that a step of `pairs` predictions needs, dropout and attention scores left out.

    Adaptor: all items once, forward and gradient of the weights (the features are fixed). Softmax: forward and two
    gradients. Encoder (2 layers): one position a prediction, forward and two gradients.
    """
    adaptor = 2 * n_items * width * n_exps * d * 2
    softmax = 2 * pairs * n_items * d * 3
    encoder = 2 * pairs * (4 * d * d + 2 * d * inner) * 2 * 3
    return adaptor + softmax + encoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="Scientific")
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--authors", type=Path, help="checkout of the authors' repository")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--steps", type=int, default=34, help="steps of our ways (default: 34)")
    parser.add_argument("--slow_steps", type=int, default=2, help="steps of the authors' code (default: 2)")
    parser.add_argument("--eval_batches", type=int, default=1, help="evaluation batches of the authors' code")
    parser.add_argument("--gpu", action="store_true", help="on one GPU; the peak is then that of its memory")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), help="default: all that can run")
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=list(STAGES))
    parser.add_argument("--scratch", default="/tmp/bench_training", help=argparse.SUPPRESS)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way == "gemm":
        print(json.dumps(gemm_peak(options.threads, options.gpu)))
        return
    if options.way:
        print(json.dumps(measure(options)))
        return
    ways = options.ways or [way for way in WAYS if options.authors or not way.startswith("authors")]
    if options.authors and not (options.authors / "unisrec.py").is_file():
        parser.error(f"{options.authors} holds no unisrec.py; give a checkout of the authors' repository")

    def child(way: str, stage: str) -> dict[str, float]:
        environment = {**os.environ, **(WAYS[way][1] if way in WAYS else {})}
        command = [sys.executable, "-W", "ignore", *sys.argv, "--way", way, "--stage", stage]
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        return json.loads(done.stdout.splitlines()[-1])

    peak = child("gemm", "")
    print(f"{options.dataset}, {options.threads} threads; large matrix product: "
          f"{peak['fp32'] / 1e9:.0f} GFLOP/s fp32, {peak['bf16'] / 1e9:.0f} GFLOP/s bf16\n")  # fmt: skip
    print("| stage | way | s a step | pairs a step | pairs/s | s an epoch | times faster | eval users/s | times | "
          "peak MiB | share | of the product's speed |\n" + "|---|---|" + "---:|" * 10)  # fmt: skip
    for stage in options.stages:
        found = {way: child(way, stage) for way in ways}
        base = found[ways[0]]
        for way in ways:
            f = found[way]
            speed, base_speed = f["pairs"] / f["step"], base["pairs"] / base["step"]
            limit = peak["bf16" if way == "ours-bf16" else "fp32"]
            useful = useful_operations(f["pairs"], f["n_items"], f["width"]) / f["step"] / limit
            print(
                f"| {stage} | {way} | {f['step']:.4f} | {f['pairs']:.0f} | {speed:,.0f} | {f['epoch_pairs'] / speed:.1f} "
                f"| {speed / base_speed:.1f} | {f['users_a_second']:,.0f} "
                f"| {f['users_a_second'] / base['users_a_second']:.1f} | {f['peak'] / 2**20:,.0f} "
                f"| {f['peak'] / base['peak']:.2f} | {useful:.0%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
