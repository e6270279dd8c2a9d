"""What each change to the training step brings: the step as it is, and with one change taken back at a time.

    python benchmarks/bench_changes.py --dataset Scientific --data_path dataset

Changes are taken back in this file alone, by putting slower code in their place. Every variant is a process of its own.
``--threads 1 --clock cpu`` counts the processor time of one thread, which other programs hardly change. `--profile`
prints where the time of a step goes instead, by torch's profiler.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def bernoulli_masks() -> None:
    import torch.nn.functional as F

    from recbole_unisrec.model import dropout, encoder

    dropout.dropout = encoder.dropout = F.dropout


def plain_cross_entropy() -> None:
    import torch
    import torch.nn.functional as F

    from recbole_unisrec.model import base

    def plain(hidden: Any, table: Any, target: Any, scale: float, *rest: Any) -> Any:
        wide = table if rest[-1] is None else torch.cat([table, rest[-1]], dim=1)
        return F.cross_entropy(scale * (hidden @ wide.T).float(), target)

    base.softmax_cross_entropy = plain


def experts_by_autograd() -> None:
    import torch.nn.functional as F

    from recbole_unisrec.model import adaptor

    class Experts:
        @staticmethod
        def apply(x: Any, gates: Any, weight: Any) -> Any:
            product = F.linear(x, weight).unflatten(-1, (gates.shape[1], -1))
            return (gates.unsqueeze(-1) * product).sum(1)

    adaptor._Experts = Experts


def experts_in_a_loop() -> None:
    from recbole_unisrec.model.adaptor import MoEAdaptor

    def forward(self: Any, x: Any) -> Any:
        gates = self.gates(x)
        return sum(gates[:, k, None] * expert(self.dropout(x)) for k, expert in enumerate(self.experts))

    MoEAdaptor.forward = forward


def buckets_of_attention() -> None:
    import torch

    from recbole_unisrec.model import encoder

    def attend_rows(self: Any, x: Any, rows: Any) -> Any:
        cut, contexts, start = self.project(x, (self.query, self.key, self.value)), [], 0
        for n, length in rows:
            query, key, value = cut[start : start + n * length].unflatten(0, (n, length)).permute(2, 0, 3, 1, 4)
            mask = torch.ones(length, length, dtype=torch.bool).tril()
            mixed = encoder.attend(query, key, value, mask, self.attn_dropout)
            contexts.append(mixed.transpose(1, 2).reshape(n * length, -1))
            start += n * length
        return torch.cat(contexts)

    encoder.Rows.of = lambda buckets, device: buckets
    encoder.MultiHeadAttention.attend_rows = attend_rows


def odd_widths() -> None:
    from recbole_unisrec.model import linear, losses

    linear.missing = losses.missing = lambda width: 0


def returned_memory() -> None:
    from recbole_unisrec import memory

    memory.keep_freed_memory = lambda: False


def plain_optimizer() -> None:
    import torch

    adam = torch.optim.Adam
    torch.optim.Adam = lambda *arguments, fused=False, **options: adam(*arguments, foreach=False, **options)


CHANGES: dict[str, tuple[str, Callable[[], None] | None, dict[str, Any]]] = {
    "as it is": ("", None, {}),
    "prefix": (
        "every prefix by itself, items adapted where they stand (train_mode: prefix)",
        None,
        {"train_mode": "prefix"},
    ),
    "loop": ("experts one by one", experts_in_a_loop, {}),
    "autograd": ("mixture of experts differentiated by autograd", experts_by_autograd, {}),
    "bernoulli": ("dropout masks by torch's Bernoulli draws", bernoulli_masks, {}),
    "entropy": ("logits of all pairs in memory (F.cross_entropy)", plain_cross_entropy, {}),
    "buckets": ("one attention call for each length", buckets_of_attention, {}),
    "widths": ("products in widths that are no multiple of 16", odd_widths, {}),
    "memory": ("freed memory goes back to the system", returned_memory, {}),
    "adam": ("Adam weight by weight", plain_optimizer, {}),
    "compile": ("torch.compile of encoder and adaptor, added", None, {"compile": True}),
}


def measure(options: argparse.Namespace) -> None:
    """Steps of one variant; prints the median as JSON, or the profile."""
    import torch
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_trainer, init_seed

    from recbole_unisrec import memory
    from recbole_unisrec.settings import build_config, model_class

    torch.set_num_threads(options.threads)
    _, take_back, settings = CHANGES[options.change]
    settings = dict(settings)
    compiled = settings.pop("compile", False)
    if take_back is not None:
        take_back()
    memory.keep_freed_memory()
    config = build_config("UniSRec", options.dataset, [], {
        **settings, "train_stage": "inductive_ft", "data_path": options.data_path, "precision": options.precision,
        "show_progress": False, "checkpoint_dir": options.scratch, "use_gpu": False,
    })  # fmt: skip
    init_seed(config["seed"], reproducibility=True)
    train, _, _ = data_preparation(config, create_dataset(config))
    model = model_class("UniSRec")(config, train._dataset)
    if compiled:
        model.trm_encoder, model.moe_adaptor = torch.compile(model.trm_encoder), torch.compile(model.moe_adaptor)
    trainer = get_trainer(config["MODEL_TYPE"], "UniSRec")(config, model)
    model.train()

    def step(batch: Any) -> None:
        trainer.optimizer.zero_grad(set_to_none=True)
        with trainer.autocast():
            loss = model.calculate_loss(batch)
        loss.backward()
        trainer.optimizer.step()

    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    warm = 10 if compiled else 2
    seconds: list[float] = []
    while len(seconds) < warm + options.steps:
        for batch in train:
            started = clock()
            step(batch)
            seconds.append(clock() - started)
            if len(seconds) == warm + options.steps:
                break
    if options.profile:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            step(batch)
        print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=20, max_name_column_width=40))
        return
    print(json.dumps({"step": statistics.median(seconds[warm:])}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="Scientific")
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--precision", nargs="+", choices=["bf16", "fp32"], default=["bf16", "fp32"])
    parser.add_argument("--changes", nargs="+", choices=list(CHANGES), default=list(CHANGES))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--scratch", default="/tmp/bench_changes", help=argparse.SUPPRESS)
    parser.add_argument("--change", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.change:
        options.precision = options.precision[0]
        measure(options)
        return
    print("| without the change | " + " | ".join(f"s a step ({p}) | times" for p in options.precision) + " |")
    print("|---|" + "---:|---:|" * len(options.precision))
    base: dict[str, float] = {}
    for change in options.changes:
        cells = []
        for precision in options.precision:
            command = [sys.executable, "-W", "ignore", *sys.argv, "--change", change, "--precision", precision]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            if options.profile:
                print(change, precision, done.stdout, sep="\n")
                continue
            seconds = json.loads(done.stdout.splitlines()[-1])["step"]
            base.setdefault(precision, seconds)
            cells.append(f"{seconds:.3f} | {seconds / base[precision]:.2f}")
        if cells:
            print(f"| {CHANGES[change][0] or change} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
