"""Measure answers: many histories at once, and one at a time, at growing catalogues; RecBole's full_sort_topk beside.

    python benchmarks/bench_serving.py --model saved/UniSRec-....pth --sizes 5000 500000 5000000

The model is a trained one. Its items are multiplied: each made-up item lies between an item of the catalogue and one
of the ten nearest to it, moved at random by half their distance. The histories are made of such items: random walks
from neighbour to neighbour in the catalogue, each step at a random copy; as long as those of the dataset, 7 on
average, at most 50. Both measures are of `Recommender.recommend`, raw ids in, ids, titles and scores out: batches on
all --threads, single requests on one thread, as in the service.

RecBole's way is `recbole.utils.case_study.full_sort_topk` over a test set of the same histories, as its users call it:
with a model of RecBole (SASRec, of the same sizes and with random weights, on which its time does not depend), with the
authors' UniSRec (--authors names a checkout of their repository), and with ours. Users are given to it by 256 and by
1024, and the faster counts. It runs as long as its matrices fit in --memory.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from dataset_tools.common import UserError, run_cli  # noqa: E402
from recbole_unisrec.serving import Recommender, load  # noqa: E402
from recbole_unisrec.serving.folder import Parts  # noqa: E402
from recbole_unisrec.serving.network import NetworkSettings  # noqa: E402
from recbole_unisrec.serving.process import set_threads  # noqa: E402
from recbole_unisrec.serving.snapshot import item_frame, rows_of  # noqa: E402

clock: Callable[[], float] = time.perf_counter
NEIGHBOURS = 10
BLOCK = 100_000


def neighbours(table: np.ndarray) -> np.ndarray:
    """int64 [n, 10] nearest items by cosine."""
    unit = torch.nn.functional.normalize(torch.from_numpy(table), dim=1)
    return (unit @ unit.T).topk(NEIGHBOURS + 1).indices[:, 1:].numpy()


def multiplied(table: np.ndarray, near: np.ndarray, n: int, file: Path) -> tuple[np.ndarray, np.ndarray]:
    """float32 [n, d] made-up items, on disk, and int64 [n] the item that each was made from."""
    rng = np.random.default_rng(0)
    out = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=(n, table.shape[1]))
    origin = rng.integers(len(table), size=n)
    origin[: len(table)] = np.arange(len(table))[:n]
    for start in range(0, n, BLOCK):
        a = origin[start : start + BLOCK]
        b = near[a, rng.integers(NEIGHBOURS, size=len(a))]
        weight = rng.random((len(a), 1), dtype=np.float32)
        noise = rng.standard_normal((len(a), table.shape[1]), dtype=np.float32)
        noise *= 0.5 * np.linalg.norm(table[a] - table[b], axis=1, keepdims=True) / table.shape[1] ** 0.5
        out[start : start + BLOCK] = table[a] * (1 - weight) + table[b] * weight + noise
    out[: len(table)] = table[:n]
    out.flush()
    return np.load(file, mmap_mode="r"), origin


def walks(origin: np.ndarray, near: np.ndarray, n: int, rng: np.random.Generator) -> list[list[int]]:
    """Histories as rows."""
    order = np.argsort(origin, kind="stable")
    first = np.searchsorted(origin[order], np.arange(len(near) + 1))
    found = []
    have = np.flatnonzero(np.diff(first))
    for length in np.minimum(50, rng.geometric(1 / 5, size=n) + 2).tolist():
        item, rows = int(have[rng.integers(len(have))]), []
        for _ in range(length):
            if first[item] < first[item + 1]:
                rows.append(int(order[rng.integers(first[item], first[item + 1])]))
            item = int(near[item, rng.integers(NEIGHBOURS)])
        found.append(rows or [int(order[0])])
    return found


def grown(parts: Parts, n: int, users: int, index: str) -> tuple[Recommender, list[list[str]], float]:
    """A recommender over n items, histories, and the seconds that its index took to build."""
    table = np.array(parts.table)
    near = neighbours(table)
    names = [f"item-{i}" for i in range(n)]
    frame = item_frame(names, [f"made-up item number {i}" for i in range(n)])
    with tempfile.TemporaryDirectory() as folder:
        vectors, origin = multiplied(table, near, n, Path(folder) / "table.npy")
        rec = Recommender(replace(parts, items=frame, table=vectors, features=None, index=None), "exact")
    histories = walks(origin, near, users + 500, np.random.default_rng(0))
    rec.queries = rec.encode(rec.snapshot, histories[users:])
    started = clock()
    if index == "approximate" or (index == "auto" and rec._wants_index("auto")):
        rec.build_index(say=print)
    seconds = clock() - started
    return rec, [[names[row] for row in rows] for rows in histories[:users]], seconds


def batch_rate(rec: Recommender, histories: list[list[str]], repeat: int) -> float:
    """Users a second, raw ids in, ids, titles and scores out."""
    best = float("inf")
    for _ in range(repeat):
        started = clock()
        rec.recommend(histories)
        best = min(best, clock() - started)
    return len(histories) / best


def latencies(rec: Recommender, histories: list[list[str]]) -> tuple[float, float]:
    """p50 and p99 of single requests in ms."""
    set_threads(1)  # as in the service
    for history in histories[:20]:
        rec.recommend(history)
    seconds = []
    for history in histories:
        started = clock()
        rec.recommend(history)
        seconds.append(clock() - started)
    return float(np.median(seconds)) * 1e3, float(np.quantile(seconds, 0.99)) * 1e3


class _Test:
    """The test data that `full_sort_topk` reads: a user each history."""

    is_sequential = True

    def __init__(self, rows: list[list[int]], n_items: int, window: int) -> None:
        from recbole.data.interaction import Interaction

        padded = torch.zeros(len(rows), window, dtype=torch.int64)
        for i, own in enumerate(rows):
            padded[i, : len(own[-window:])] = torch.tensor(own[-window:]) + 1
        length = torch.tensor([len(own[-window:]) for own in rows])
        users = torch.arange(len(rows)) + 1
        self.inter_feat = Interaction({"user_id": users, "item_id_list": padded, "item_length": length})
        self.uid_field, self.item_num, self.dataset = "user_id", n_items, self

    def __getitem__(self, index: Any) -> Any:
        return self.inter_feat[index]


def recbole_rate(model: Any, test: _Test, at_once: int) -> float:
    """Users a second of `full_sort_topk` over as many users as take a few seconds."""
    from recbole.utils.case_study import full_sort_topk

    n_users = len(test.inter_feat["user_id"])
    full_sort_topk([1, 2], model, test, 10)
    best = 0.0
    for batch in sorted({min(at_once, batch) for batch in (256, 1024)}):
        done, started = 0, clock()
        while done < n_users and clock() - started < 8:
            full_sort_topk(list(range(done + 1, min(n_users, done + batch) + 1)), model, test, 10)
            done = min(n_users, done + batch)
        best = max(best, done / (clock() - started))
    return best


def _config(s: NetworkSettings) -> dict[str, Any]:
    """What RecBole's models read of a configuration."""
    return {
        "USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id", "LIST_SUFFIX": "_list", "NEG_PREFIX": "neg_",
        "ITEM_LIST_LENGTH_FIELD": "item_length", "MAX_ITEM_LIST_LENGTH": s.window, "device": torch.device("cpu"),
        "n_layers": s.n_layers, "n_heads": s.n_heads, "hidden_size": s.hidden_size, "inner_size": s.inner_size,
        "hidden_dropout_prob": 0.5, "attn_dropout_prob": 0.5, "hidden_act": s.hidden_act,
        "layer_norm_eps": s.layer_norm_eps, "initializer_range": 0.02, "loss_type": "CE", "temperature": 0.07,
        "lambda": 1e-3, "train_stage": "inductive_ft", "plm_size": s.plm_size,
        "adaptor_layers": [s.plm_size, s.hidden_size], "adaptor_dropout_prob": 0.2, "n_exps": s.n_exps,
    }  # fmt: skip


class _Items:
    """What RecBole's models read of a dataset: the number of items."""

    def __init__(self, n: int) -> None:
        self.n = n

    def num(self, _: str) -> int:
        return self.n


def sasrec(settings: NetworkSettings, n: int) -> Any:
    """RecBole's SASRec over n items."""
    from recbole.model.sequential_recommender import SASRec

    return SASRec(_config(settings), _Items(n + 1)).eval()


def our_model(rec: Recommender) -> Any:
    """Our UniSRec in RecBole's hands, with the grown table as its cached one."""
    from recbole_unisrec.model.base import TableRecommender

    class Served(TableRecommender):
        def __init__(self) -> None:
            torch.nn.Module.__init__(self)
            self.cosine = rec.network.cosine
            self.ITEM_SEQ, self.ITEM_SEQ_LEN = "item_id_list", "item_length"
            for name in ("position_embedding", "trm_encoder", "LayerNorm"):
                setattr(self, name, getattr(rec.network, name))
            self.dropout = torch.nn.Identity()
            vectors = rec.snapshot.vectors(torch.arange(rec.snapshot.n))
            self.table = torch.cat([torch.zeros(1, vectors.shape[1]), vectors])
            self.history_bias = self._cached = None

        def item_table(self, items: Any = None) -> Any:
            return self.table if items is None else self.table[items]

    return Served().eval()


def authors_model(authors: Path, settings: NetworkSettings, n: int) -> Any:
    """The authors' UniSRec over n items with random features of the right size."""
    spec = importlib.util.spec_from_file_location("authors_unisrec", authors / "unisrec.py")
    if spec is None or not (authors / "unisrec.py").is_file():
        raise UserError(f"{authors}/unisrec.py does not exist; give a checkout of the authors' repository by --authors")
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    data = _Items(n + 1)
    data.plm_embedding = torch.nn.Embedding.from_pretrained(torch.randn(n + 1, settings.plm_size), padding_idx=0)
    return module.UniSRec(_config(settings), data).eval()


def measure(parts: Parts, n: int, args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """A row of each table."""
    rec, histories, seconds = grown(parts, n, args.users, args.index)
    settings, index = parts.settings, rec.snapshot.index
    p50, p99 = latencies(rec, histories[: args.single])
    set_threads(args.threads)
    rates = []
    for precision in ("fp32", "bf16"):
        rec.network.use_precision(precision)
        rates.append(batch_rate(rec, histories, args.repeat))
    rec.network.use_precision("fp32")
    search = ["exact", "", "1"] if index is None else ["IVF", f"{seconds:.0f}", f"{index.recall:.4f}"]
    ours = [f"{n:,}", *search, *(f"{rate:,.0f}" for rate in rates), f"{p50:.2f}", f"{p99:.2f}"]
    print(" ".join(ours), flush=True)
    test = _Test([rows_of(rec.snapshot, history)[0] for history in histories], n + 1, settings.window)
    at_once = max(1, int(args.memory * 1e9 / 4 / (4 * n)))
    theirs, d = [f"{n:,}"], settings.hidden_size
    makers: dict[str, tuple[Callable[[], Any], int]] = {
        "ours": (lambda: our_model(rec), 16 * d),
        "SASRec": (lambda: sasrec(settings, n), 4 * d),
        "authors": (
            lambda: authors_model(args.authors, settings, n),
            4 * (settings.n_exps * 3 * d + 2 * settings.plm_size),
        ),
    }
    for name, (make, per_item) in makers.items():
        fits = n * per_item < args.memory * 1e9
        model = make() if fits and (name != "authors" or args.authors) else None
        if name == "ours":
            del rec  # from here on its memory is RecBole's
            gc.collect()
        if model is None:
            theirs += ["-" if fits else "does not fit", ""]
            continue
        rate = recbole_rate(model, test, at_once)
        theirs += [f"{rate:,.1f}", " / ".join(f"{own / rate:.1f}" for own in rates)]
        print(name, *theirs[-2:], flush=True)
        del model
        gc.collect()
    return ours, theirs


def main(arguments: list[str]) -> None:
    """The command line; see ``--help``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="checkpoint or saved model, inductive")
    parser.add_argument("--sizes", type=int, nargs="+", default=[5_000, 500_000, 5_000_000], help="catalogues")
    parser.add_argument("--users", type=int, default=8192, help="histories answered at once (default: %(default)s)")
    parser.add_argument("--single", type=int, default=300, help="single requests (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=2, help="turns of the batch, the best counts")
    parser.add_argument("--index", default="auto", choices=["auto", "exact", "approximate"])
    parser.add_argument("--authors", type=Path, help="checkout of the authors' repository")
    parser.add_argument("--memory", type=float, default=7, help="GB that RecBole's way may take (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: %(default)s")
    parser.add_argument(
        "--cpu_time", action="store_true", help="CPU time, which other programs disturb less; for --threads 1"
    )
    args = parser.parse_args(arguments)
    if args.cpu_time:
        global clock
        clock, args.threads = time.process_time, 1
    set_threads(args.threads)
    rec = load(args.model, index="exact")
    parts = Parts(
        rec.meta, rec.settings, rec.network, rec.snapshot.items,
        rec.snapshot.vectors(torch.arange(rec.snapshot.n)).numpy(), None, rec.queries, None,
    )  # fmt: skip
    print(f"{rec.meta.model} {rec.meta.form}, window {rec.window}, torch {torch.__version__}, {args.threads} threads")
    del rec
    rows = [measure(parts, n, args) for n in args.sizes]
    heads = (
        ["items", "search", "built in s", "recall@10", "batch users/s fp32", "bf16", "single p50 ms", "p99 ms"],
        ["items", *(f"{name} | times fp32 / bf16" for name in ("our model", "SASRec", "authors"))],
    )
    for head, table in zip(heads, zip(*rows, strict=True), strict=True):
        width = " | ".join(head).count("|") + 1
        print(f"\n| {' | '.join(head)} |\n|{'---:|' * width}")
        for cells in table:
            print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    sys.exit(run_cli(main))
