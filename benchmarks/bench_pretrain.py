"""One step of pre-training against the authors' code: pairs a second and peak memory.

    python benchmarks/bench_pretrain.py --authors UniSRec
    python benchmarks/bench_pretrain.py --growth

``--authors`` is their repository (``unisrec.py``, ``data/transform.py``). Both sides train on the same generated batch
(histories of the lengths of a log-normal with the given mean, popular items more often, random features), each in a
process of its own, alternately; forward, backward and Adam. The authors' side gets their ``PLMEmb`` transform and
``calculate_loss``, 50 positions for each history. The median of the steps is printed, and the ratio of the medians;
the peak is the largest resident set of the process. ``--growth`` measures our side alone with larger batches, wider
features and more domains.
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
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
WINDOW, HIDDEN = 50, 300
SETTINGS = {
    "n_layers": 2, "n_heads": 2, "hidden_size": HIDDEN, "inner_size": 256, "hidden_dropout_prob": 0.5,
    "attn_dropout_prob": 0.5, "hidden_act": "gelu", "layer_norm_eps": 1e-12, "initializer_range": 0.02,
    "loss_type": "CE", "temperature": 0.07, "lambda": 1e-3, "n_exps": 8, "adaptor_dropout_prob": 0.2,
    "USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id", "LIST_SUFFIX": "_list", "NEG_PREFIX": "neg_",
    "ITEM_LIST_LENGTH_FIELD": "item_length", "MAX_ITEM_LIST_LENGTH": WINDOW, "device": torch.device("cpu"),
    "train_stage": "pretrain", "item_drop_ratio": 0.2, "item_drop_coefficient": 0.9, "gate_noise": True,
    "whitening": True, "contrastive_masking": None, "feature_scaling": "none",
}  # fmt: skip


def rows(batch: int, n_items: int, mean_length: float, n_domains: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Item ids from 1, [Σ (length + 1)], of histories and next items end to end, and lengths [batch]."""
    rng = np.random.default_rng(seed)
    length = np.clip(rng.lognormal(np.log(mean_length) - 0.32, 0.8, batch).astype(np.int64), 1, WINDOW)
    domain = np.repeat(rng.integers(n_domains, size=batch), length + 1)
    per = n_items // n_domains
    within = (per * rng.random(len(domain)) ** 2).astype(np.int64)
    return 1 + domain * per + within, length


def ours(options: argparse.Namespace) -> dict[str, float]:
    """Seconds of each step of our side, and the peak."""
    sys.path.insert(0, str(ROOT))
    import recbole_unisrec  # noqa: F401
    from recbole_unisrec.memory import keep_freed_memory
    from recbole_unisrec.pretrain.dataset import make_batch
    from recbole_unisrec.pretrain.model import UniSRecPretrain
    from recbole_unisrec.pretrain.views import Augmentation, cut_rows

    keep_freed_memory()
    table = features(options)
    model = UniSRecPretrain(SETTINGS, SimpleNamespace(features=SimpleNamespace(width=options.width, encoder="")))  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    augmentation = Augmentation(0.2, 0.9, options.items + 1, 1)
    times, losses = [], []
    for step in range(options.steps):
        items, length = rows(options.batch, options.items, options.length, options.domains, step)
        started = time.perf_counter()
        ends = np.cumsum(length + 1)
        plain = cut_rows(items - 1, ends - length - 1, ends - 1, length)
        view = augmentation.view(plain, torch.arange(options.batch), 0, step)
        source = Wrapped(table, options.items + 1)
        target = torch.from_numpy(items[ends - 1])
        batch = make_batch(plain, view, target, source, 2 * options.items + 2, at_a_time=options.rows_at_a_time)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bf16"):
            loss = model.calculate_loss(batch)
        loss.backward()
        optimizer.step()
        times.append(time.perf_counter() - started)
        losses.append(loss.item())
    return report(times, losses)


class Wrapped:
    """The table, with the word-drop ids showing the same rows (as the authors' side has it here)."""

    def __init__(self, table: torch.Tensor, n: int) -> None:
        self.table, self.n = table, n

    def __getitem__(self, ids: torch.Tensor) -> torch.Tensor:
        return self.table[ids % self.n]


def features(options: argparse.Namespace) -> torch.Tensor:
    """float32 [items + 1, width], the same in both processes; row 0 is zero."""
    table = torch.randn(options.items + 1, options.width, generator=torch.Generator().manual_seed(0)) * 0.3
    table[0] = 0
    return table


def authors(options: argparse.Namespace) -> dict[str, float]:
    """Seconds of each step of the authors' side, and the peak."""
    sys.path.insert(0, str(ROOT))
    import recbole_unisrec  # noqa: F401  (gaps between RecBole and current libraries)

    sys.path.insert(0, str(options.authors))
    from data.transform import PLMEmb  # type: ignore[import-not-found]
    from recbole.data.interaction import Interaction
    from unisrec import UniSRec  # type: ignore[import-not-found]

    settings: Any = {**SETTINGS, "adaptor_layers": [options.width, HIDDEN]}
    embedding = torch.nn.Embedding.from_pretrained(features(options))
    dataset: Any = SimpleNamespace(num=lambda field: options.items + 1, plm_embedding=embedding)
    dataset.plm_embedding_aug = embedding
    model = UniSRec(settings, dataset)
    transform = PLMEmb(settings)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    times, losses = [], []
    for step in range(options.steps):
        items, length = rows(options.batch, options.items, options.length, options.domains, step)
        ends = np.cumsum(length + 1)
        sequence = np.zeros((options.batch, WINDOW), dtype=np.int64)
        for row, (end, n) in enumerate(zip(ends, length, strict=True)):
            sequence[row, :n] = items[end - n - 1 : end - 1]
        batch = {"item_id_list": sequence, "item_length": length, "item_id": items[ends - 1]}
        started = time.perf_counter()
        interaction = transform(dataset, Interaction({k: torch.from_numpy(v) for k, v in batch.items()}))
        optimizer.zero_grad()
        loss = model.calculate_loss(interaction)
        loss.backward()
        optimizer.step()
        times.append(time.perf_counter() - started)
        losses.append(loss.item())
    return report(times, losses)


def report(times: list[float], losses: list[float]) -> dict[str, float]:
    """The first step warms up, unless it is the only one."""
    from recbole_unisrec.memory import peak_memory

    return {"seconds": statistics.median(times[1:] or times), "peak": peak_memory() / 2**20, "loss": losses[0]}


def measure(side: str, options: argparse.Namespace, **changed: Any) -> dict[str, float]:
    """Run one side in a process of its own."""
    values = {**vars(options), **changed, "side": side}
    arguments = [f"--{k}={v}" for k, v in values.items() if v not in (None, False, True) and k != "threads"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    command = [sys.executable, "-W", "ignore", __file__, *arguments]
    found = subprocess.run(command, env=environment, capture_output=True, text=True)
    if found.returncode:
        raise SystemExit(f"{side} failed: {found.stderr[-1500:]}")
    result: dict[str, float] = json.loads(found.stdout.splitlines()[-1])
    return result


def main() -> None:
    """The command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--authors", type=Path, help="the authors' repository")
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--items", type=int, default=60_000)
    parser.add_argument("--length", type=float, default=8.0, help="mean length of the histories")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--domains", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows_at_a_time", type=int, default=2048, help="as in props/pretrain.yaml")
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--side", choices=["ours", "authors"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps({"ours": ours, "authors": authors}[options.side](options)))
        return
    if options.growth:
        print("| batch | width | domains | s/step | pairs/s | peak (MiB) |\n|---|---|---|---|---|---|")
        cases = [{"batch": b} for b in (512, 1024, 2048, 4096, 8192)]
        cases += [{"width": w} for w in (384, 1536)] + [{"domains": d} for d in (1, 20)]
        for case in cases:
            found = measure("ours", options, **case)
            full = {**vars(options), **case}
            print(
                f"| {full['batch']} | {full['width']} | {full['domains']} | {found['seconds']:.2f} | "
                f"{full['batch'] / found['seconds']:.0f} | {found['peak']:.0f} |", flush=True,
            )  # fmt: skip
        return
    print("| side | s/step | pairs/s | peak (MiB) | first loss |\n|---|---|---|---|---|")
    found = {}
    for side, changes in (("authors", {"steps": 2}), ("ours fp32", {}), ("ours bf16", {"precision": "bf16"})):
        if side == "authors" and not options.authors:
            continue
        found[side] = measure(side.split()[0], options, **changes)
        r = found[side]
        print(
            f"| {side} | {r['seconds']:.2f} | {options.batch / r['seconds']:.0f} | {r['peak']:.0f} | {r['loss']:.4f} |",
            flush=True,
        )
    for side in ("ours fp32", "ours bf16"):
        if "authors" in found:
            times = found["authors"]["seconds"] / found[side]["seconds"]
            part = found["authors"]["peak"] / found[side]["peak"]
            print(f"\n{side}: {times:.1f} times as fast, peak memory 1/{part:.1f}")


if __name__ == "__main__":
    main()
