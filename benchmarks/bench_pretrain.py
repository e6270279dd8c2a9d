"""One step of pre-training against the authors' code: pairs a second and peak memory.

    python benchmarks/bench_pretrain.py --authors UniSRec
    python benchmarks/bench_pretrain.py --growth
    python benchmarks/bench_pretrain.py --full bench --precision bf16 --batch 8192

``--authors`` is their repository (``unisrec.py``, ``data/transform.py``). Both sides train on the same generated batch
(histories of the lengths of a log-normal with the given mean, popular items more often, random features), each in a
process of its own, alternately; forward, backward and Adam. The authors' side gets their ``PLMEmb`` transform and
``calculate_loss``, 50 positions for each history. The median of the steps is printed, and the ratio of the medians;
the peak is the largest resident set of the process. *segments* is our side with ``--pretrain_pairs=segments``: as many
pairs, in whole sequences of the same mean length. ``--growth`` measures our side alone with larger batches, wider
features and more domains. ``--full`` writes a mixture of the size of Food, Home, CDs, Kindle and Movies (users, items and
interactions as published, drawn at random; half-precision features) into a folder and takes a few steps of it with the
product's own loader.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
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


def segments(options: argparse.Namespace, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """As `rows`, of about ``options.batch`` pairs: sequences whose prefixes have the wanted mean length."""
    items, length = rows(options.batch, options.items, options.length, options.domains, seed)
    n = int(np.searchsorted(np.cumsum(length), options.batch)) + 1
    return items[: int((length[:n] + 1).sum())], length[:n]


def ours(options: argparse.Namespace) -> dict[str, float]:
    """Seconds of each step of our side, and the peak."""
    sys.path.insert(0, str(ROOT))
    import recbole_unisrec  # noqa: F401
    from recbole_unisrec.memory import keep_freed_memory
    from recbole_unisrec.pretrain.batch import make_batch
    from recbole_unisrec.pretrain.model import UniSRecPretrain
    from recbole_unisrec.pretrain.views import Augmentation, cut_rows, next_items
    from recbole_unisrec.setting_page import defaults

    keep_freed_memory()
    torch.manual_seed(0)
    source = Wrapped(features(options), options.items + 1)
    settings = {**defaults("UniSRecPretrain"), **SETTINGS, "contrastive_masking": "exclude"}
    model = UniSRecPretrain(settings, SimpleNamespace(features=SimpleNamespace(width=options.width, encoder="")))  # type: ignore[arg-type]
    if options.gpu:  # as the product: the whole table, with the word-drop rows below, lies on the device
        model = model.to("cuda")
        model.use_table(source.table.repeat(2, 1).to("cuda"))
    augmentation = Augmentation(0.2, 0.9, options.items + 1, 1)
    whole = options.pairs == "segments"

    def batches() -> Iterator[Any]:
        for step in range(options.steps):
            if whole:
                items, length = segments(options, step)
            else:
                items, length = rows(options.batch, options.items, options.length, options.domains, step)
            stop = np.cumsum(length + 1) - 1
            bounds = (stop - length, stop, np.ones_like(length) if whole else length)
            started = time.perf_counter()
            plain = cut_rows(items - 1, *bounds)
            view = augmentation.view(plain, torch.arange(len(length)), 0, step)
            owner = torch.from_numpy(np.repeat(np.arange(len(length)), length)) if whole else None
            target = next_items(items - 1, *bounds)
            n_ids = 2 * options.items + 2
            if options.graphs:
                yield started, (plain, view, target, owner)
                continue
            table = None if options.gpu else source
            yield started, make_batch(plain, view, target, table, n_ids, owner=owner, at_a_time=options.rows_at_a_time)

    if options.graphs:
        if not options.gpu:
            model.use_table(source.table.repeat(2, 1))
        return train_recorded(model, [draw for _, draw in batches()], augmentation, options)

    return train(model, batches(), options)


def trainer_of(model: Any, options: argparse.Namespace) -> Any:
    """What recorded steps ask of a trainer."""
    kind, _ = device(options)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True, capturable=options.gpu)
    return SimpleNamespace(
        model=model.train(), optimizer=optimizer, device=torch.device(kind), move_weights=optimizer.step,
        training=SimpleNamespace(graphs="compiled" if options.compiled else "auto"),
        autocast=lambda: torch.autocast(kind, torch.bfloat16, enabled=options.precision == "bf16"),
    )  # fmt: skip


def train_recorded(model: Any, draws: list[Any], augmentation: Any, options: argparse.Namespace) -> dict[str, float]:
    """`train` by recorded steps, batches laid out ahead in a thread; on a CPU a call stands for the playing of a graph."""
    from recbole_unisrec.data.ahead import ahead
    from recbole_unisrec.graphs import CudaRecorder
    from recbole_unisrec.pretrain.fixed import FixedBatches, RecordedPretraining

    _, wait = device(options)
    trainer = trainer_of(model, options)
    on = trainer.device
    mean = [
        statistics.mean(sizes) for sizes in zip(*((len(d[0].items), len(d[2]), len(d[0])) for d in draws), strict=True)
    ]
    positions, n_pairs, n_rows = (round(size) for size in mean)
    dataset = _Sized(n_pairs, features=SimpleNamespace(n_items=options.items + 1), window=WINDOW)
    lines = SimpleNamespace(n_positions=positions, domains=[0, n_rows])
    loader: Any = _Sized(1, dataset=dataset, rows=lines, augmentation=augmentation)  # an epoch of one batch
    fixed = FixedBatches(loader)
    run = RecordedPretraining(trainer, CudaRecorder(on) if options.gpu else Calls(), print)
    warm = 5 * len(draws) if options.gpu else 0  # of each shape some steps come before the recording, and one is it
    times, losses, pairs = [], [], []
    for number, batch in enumerate(
        ahead((fixed.fixed(*d) for d in itertools.islice(itertools.cycle(draws), warm + len(draws))), on)
    ):
        if number == warm:
            started, before = time.perf_counter(), run.sums.clone()
        run(batch)
        if number >= warm:
            wait()
            times.append(time.perf_counter() - started)
            losses.append(float((run.sums - before) @ torch.tensor([1.0, 1e-3], dtype=torch.float64, device=on)))
            pairs.append(len(batch))
            started, before = time.perf_counter(), run.sums.clone()
    return report(times, losses, pairs)


class Calls:
    """In the place of CUDA graphs on a CPU."""

    def run(self, step: Callable[[], None]) -> None:
        step()

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        return step


class _Sized:
    """Something of a length, with attributes."""

    def __init__(self, length: int, **attributes: Any) -> None:
        self.length = length
        self.__dict__.update(attributes)

    def __len__(self) -> int:
        return self.length


def device(options: argparse.Namespace) -> tuple[str, Callable[[], None]]:
    """Name of the device, and what waits until it has done its work."""
    return ("cuda", torch.cuda.synchronize) if options.gpu else ("cpu", lambda: None)


def train(model: Any, batches: Iterator[tuple[float, Any]], options: argparse.Namespace) -> dict[str, float]:
    """Steps of Adam over batches, each with the time at which its making began."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    times, losses, pairs, distinct = [], [], [], []
    kind, wait = device(options)
    for started, batch in batches:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(kind, torch.bfloat16, enabled=options.precision == "bf16"):
            loss = model.calculate_loss(batch.to(kind))
        loss.backward()
        optimizer.step()
        wait()
        times.append(time.perf_counter() - started)
        losses.append(loss.item())
        pairs.append(len(batch))
        distinct.append(len(batch.unique))
    return report(times, losses, pairs, distinct)


# domains of the paper's mixture: users, items, interactions (its table 1)
FULL = {
    "Food": (115_349, 39_670, 1_027_413),
    "Home": (731_913, 185_552, 6_451_926),
    "CDs": (94_010, 64_439, 1_118_563),
    "Kindle": (138_436, 98_111, 2_204_596),
    "Movies": (281_700, 59_203, 3_226_731),
}


def write_full(data: Path, width: int) -> None:
    """A mixture ``data/FHCKM`` of random sequences: log-normal lengths from 5 on, popular items more often."""
    rng = np.random.default_rng(0)
    folder = data / "FHCKM"
    folder.mkdir(parents=True, exist_ok=True)
    lengths, items, domains, base = [], [], [], 0
    for name, (n_users, n_items, n_rows) in FULL.items():
        length = 5 + rng.lognormal(0, 1.2, n_users)
        length = np.maximum(5, np.round(5 + (length - 5) * (n_rows / n_users - 5) / (length - 5).mean())).astype(
            np.int64
        )
        lengths.append(length)
        items.append(base + (n_items * rng.random(int(length.sum())) ** 2).astype(np.int32))
        domains.append({"name": name, "folder": f"../{name}", "first_item": base, "n_items": n_items})
        base += n_items
        (data / name).mkdir(exist_ok=True)
        for suffix in ("feat1CLS", "feat2CLS"):
            path = data / name / f"{name}.{suffix}"
            with open(path, "wb") as file:
                for first in range(0, n_items, 1 << 14):
                    block = rng.standard_normal((min(1 << 14, n_items - first), width), dtype=np.float32)
                    file.write((0.3 * block).astype(np.float16).tobytes())
            Path(f"{path}.json").write_text(json.dumps({"encoder": "random", "width": width, "dtype": "float16"}))
    counts = np.concatenate(lengths)
    np.save(folder / "FHCKM.items.npy", np.concatenate(items).astype(np.int32))
    np.save(folder / "FHCKM.offsets.npy", np.r_[0, np.cumsum(counts)])
    np.save(
        folder / "FHCKM.user_domain.npy", np.repeat(np.arange(len(FULL)), [len(n) for n in lengths]).astype(np.int16)
    )
    description = {"name": "FHCKM", "n_items": base, "n_users": len(counts), "domains": domains}
    (folder / "FHCKM.mixture.json").write_text(json.dumps(description))


def full(options: argparse.Namespace) -> dict[str, float]:
    """Steps over the mixture of `write_full`, with the product's loader."""
    sys.path.insert(0, str(ROOT))
    import recbole_unisrec  # noqa: F401
    from recbole_unisrec.distributed import World
    from recbole_unisrec.memory import keep_freed_memory
    from recbole_unisrec.pretrain.dataset import MixtureDataset, on_device
    from recbole_unisrec.pretrain.model import UniSRecPretrain
    from recbole_unisrec.pretrain.run import MODEL, make_loader
    from recbole_unisrec.settings import build_config

    keep_freed_memory()
    settings = {
        "data_path": str(options.full), "train_batch_size": options.batch, "pretrain_pairs": options.pairs,
        "rows_at_a_time": options.rows_at_a_time, "use_gpu": options.gpu,
    }  # fmt: skip
    config = build_config(MODEL, "FHCKM", [], settings)
    started = time.perf_counter()
    dataset = MixtureDataset(config)
    loader = make_loader(config, dataset, World())
    order = iter(loader)
    model = UniSRecPretrain(config, dataset).to(config["device"])
    if on_device(config) or options.graphs:
        model.use_table(dataset.features.on(config["device"]))
    opened = time.perf_counter() - started
    if options.graphs:
        found = full_recorded(model, loader, options)
        return {**found, "opened": opened, "steps": len(loader), "epoch_pairs": len(dataset)}

    def batches() -> Iterator[Any]:
        for _ in range(options.steps):
            started = time.perf_counter()
            yield started, next(order)

    found = train(model, batches(), options)
    return {**found, "opened": opened, "steps": len(loader), "epoch_pairs": len(dataset)}


def full_recorded(model: Any, loader: Any, options: argparse.Namespace) -> dict[str, float]:
    """Seconds of a recorded step, of many that are waited for together: batches are laid out ahead in a thread."""
    from recbole_unisrec.data.ahead import ahead
    from recbole_unisrec.graphs import CudaRecorder
    from recbole_unisrec.pretrain.fixed import FixedBatches, RecordedPretraining

    _, wait = device(options)
    trainer = trainer_of(model, options)
    run = RecordedPretraining(trainer, CudaRecorder(trainer.device) if options.gpu else Calls(), print)
    warm = 4 * options.steps  # shapes are recorded in these
    batches = itertools.islice(ahead(FixedBatches(loader), trainer.device), warm + options.steps)
    pairs = 0
    for number, batch in enumerate(batches):
        if number == warm:
            wait()
            started, before = time.perf_counter(), run.sums.clone()
        run(batch)
        pairs += len(batch) if number >= warm else 0
    wait()
    seconds = (time.perf_counter() - started) / options.steps
    loss = float((run.sums - before)[0]) / options.steps
    return report([seconds] * options.steps, [loss], [pairs / options.steps])


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
    kind, wait = device(options)
    model = UniSRec(settings, dataset).to(kind)
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
        loss = model.calculate_loss(interaction.to(kind))
        loss.backward()
        optimizer.step()
        wait()
        times.append(time.perf_counter() - started)
        losses.append(loss.item())
    return report(times, losses, [options.batch] * len(times))


def report(
    times: list[float], losses: list[float], pairs: list[int], distinct: list[int] | None = None
) -> dict[str, float]:
    """The first step warms up, unless it is the only one."""
    from recbole_unisrec.memory import peak_memory

    seconds = statistics.median(times[1:] or times)
    return {
        "seconds": seconds,
        "peak": peak_memory(torch.cuda.is_initialized()) / 2**20,
        "loss": losses[0],
        "pairs": statistics.median(pairs[1:] or pairs) / seconds,
        "distinct": statistics.median(distinct or [0]),
    }


def measure(side: str, options: argparse.Namespace, **changed: Any) -> dict[str, float]:
    """Run one side in a process of its own."""
    values = {**vars(options), **changed, "side": side}
    given = {k: v for k, v in values.items() if v is not None and v is not False and k not in ("threads", "only")}
    arguments = [f"--{k}" if v is True else f"--{k}={v}" for k, v in given.items()]
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
    parser.add_argument("--pairs", choices=["random", "segments"], default="random", help="as --pretrain_pairs")
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--graphs", action="store_true", help="recorded steps beside the others")
    parser.add_argument("--compiled", action="store_true", help="recorded steps compiled too (graphs: compiled)")
    parser.add_argument("--gpu", action="store_true", help="on one GPU; the peak is then that of its memory")
    parser.add_argument(
        "--full", type=Path, metavar="DIR", help="where the mixture is written, 1.5 GB; kept for next time"
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="WORD", help="sides with all these words, and the authors'"
    )
    parser.add_argument("--side", choices=["ours", "authors", "full"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps({"ours": ours, "authors": authors, "full": full}[options.side](options)))
        return
    if options.full:
        print_full(options)
    elif options.growth:
        print_growth(options)
    else:
        print_ratio(options)


def print_full(options: argparse.Namespace) -> None:
    """Both ways of making pairs on the mixture of the paper's size."""
    if not (options.full / "FHCKM" / "FHCKM.mixture.json").is_file():
        write_full(options.full, options.width)
    print(
        "| pairs | batch | opened in s | s/step | pairs/s | distinct items | h/epoch | peak (MiB) |\n|---|---|---|---|---|---|---|---|"
    )
    for pairs in ("random", "segments"):
        r = measure("full", options, pairs=pairs, rows_at_a_time=0 if options.graphs else options.rows_at_a_time)
        print(
            f"| {pairs} | {options.batch} | {r['opened']:.1f} | {r['seconds']:.4f} | {r['pairs']:.0f} | "
            f"{r['distinct']:.0f} | {r['epoch_pairs'] / r['pairs'] / 3600:.3f} | {r['peak']:.0f} |", flush=True,
        )  # fmt: skip


def print_growth(options: argparse.Namespace) -> None:
    """Our side with larger batches, wider features and more domains."""
    print("| batch | width | domains | s/step | pairs/s | peak (MiB) |\n|---|---|---|---|---|---|")
    cases = [{"batch": b} for b in (512, 1024, 2048, 4096, 8192)]
    cases += [{"width": w} for w in (384, 1536)] + [{"domains": d} for d in (1, 20)]
    for case in cases:
        found = measure("ours", options, **case)
        now = {**vars(options), **case}
        print(
            f"| {now['batch']} | {now['width']} | {now['domains']} | {found['seconds']:.2f} | "
            f"{found['pairs']:.0f} | {found['peak']:.0f} |", flush=True,
        )  # fmt: skip


def print_ratio(options: argparse.Namespace) -> None:
    """Our side against the authors'."""
    print("| side | s/step | pairs/s | peak (MiB) | first loss |\n|---|---|---|---|---|")
    sides: dict[str, dict[str, Any]] = {"authors": {} if options.gpu else {"steps": 2}} if options.authors else {}
    for pairs in ("random", "segments"):
        for precision in ("fp32", "bf16"):
            sides[f"ours {pairs} {precision}"] = {"pairs": pairs, "precision": precision}
            if options.graphs:
                way = {"pairs": pairs, "precision": precision, "graphs": True}
                sides[f"ours {pairs} {precision} recorded"] = way
                if options.compiled and precision == "bf16":
                    sides[f"ours {pairs} {precision} compiled"] = {**way, "compiled": True}
    sides = {s: c for s, c in sides.items() if s == "authors" or all(word in s.split() for word in options.only)}
    found = {}
    for side, changes in sides.items():
        r = found[side] = measure(side.split()[0], options, **{"graphs": False, "compiled": False, **changes})
        print(
            f"| {side} | {r['seconds']:.4f} | {r['pairs']:.0f} | {r['peak']:.0f} | {r['loss']:.4f} |", flush=True,
        )  # fmt: skip
    for side in sides:
        if options.authors and side != "authors":
            times = found[side]["pairs"] / found["authors"]["pairs"]
            part = found["authors"]["peak"] / found[side]["peak"]
            print(f"\n{side}: {times:.1f} times the pairs a second, peak memory 1/{part:.1f}")


if __name__ == "__main__":
    main()
