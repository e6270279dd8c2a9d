"""Measure answers: many histories at once, and one at a time, at growing catalogues; RecBole's full_sort_topk beside.

    python benchmarks/bench_serving.py --model saved/UniSRec-....pth --sizes 5000 500000 5000000

The model is a trained one. Its items are multiplied: each made-up item lies between an item of the catalogue and one
of the ten nearest to it, moved at random by half their distance. The histories are made of such items: random walks
from neighbour to neighbour in the catalogue, each step at a random copy; as long as those of the dataset, 7 on
average, at most 50. Latency is that of `Recommender.recommend` on raw ids, encoder and titles included, on one thread; batches run on all --threads.

RecBole's way is `recbole.utils.case_study.full_sort_topk` over a test set of as many users, in batches, with our model
(whose table is cached) and, where --authors names a checkout of their repository, with the authors'. It runs as long
as its matrices fit in --memory.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from dataset_tools.common import UserError, run_cli  # noqa: E402
from recbole_unisrec.serving import Recommender, load  # noqa: E402
from recbole_unisrec.serving.catalogue import item_frame  # noqa: E402
from recbole_unisrec.serving.cli import set_threads  # noqa: E402
from recbole_unisrec.serving.folder import Parts  # noqa: E402
from recbole_unisrec.serving.recommender import rows_of  # noqa: E402

NEIGHBOURS = 10
BLOCK = 100_000


def neighbours(table: np.ndarray) -> np.ndarray:
    """int64 [n, 10] nearest items by cosine."""
    unit = torch.nn.functional.normalize(torch.from_numpy(table), dim=1)
    return (unit @ unit.T).topk(NEIGHBOURS + 1).indices[:, 1:].numpy()


def multiplied(table: np.ndarray, near: np.ndarray, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """float32 [n, d] made-up items, and the item that each was made from."""
    if n <= len(table):
        return table[:n], np.arange(n)
    out, origin = np.empty((n, table.shape[1]), np.float32), rng.integers(len(table), size=n)
    origin[: len(table)] = np.arange(len(table))
    for start in range(0, n, BLOCK):
        a = origin[start : start + BLOCK]
        b = near[a, rng.integers(NEIGHBOURS, size=len(a))]
        weight = rng.random((len(a), 1), dtype=np.float32)
        noise = rng.standard_normal((len(a), table.shape[1]), dtype=np.float32)
        noise *= 0.5 * np.linalg.norm(table[a] - table[b], axis=1, keepdims=True) / table.shape[1] ** 0.5
        out[start : start + BLOCK] = table[a] * (1 - weight) + table[b] * weight + noise
    out[: len(table)] = table
    return out, origin


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
    rng = np.random.default_rng(0)
    table = np.array(parts.table)
    near = neighbours(table)
    vectors, origin = multiplied(table, near, n, rng)
    histories = walks(origin, near, users + 500, rng)
    names = [f"item-{i}" for i in range(n)]
    frame = item_frame(names, [f"made-up item number {i}" for i in range(n)])
    small = Recommender(replace(parts, items=frame, table=vectors, features=None, index=None), "exact")
    del vectors
    gc.collect()
    small.queries = small.encode(small.snapshot, histories[users:])
    started = time.perf_counter()
    if index == "approximate" or (index == "auto" and small._wants_index("auto")):
        small.build_index(say=print)
    seconds = time.perf_counter() - started
    return small, [[names[row] for row in rows] for rows in histories[:users]], seconds


def batch_rate(rec: Recommender, histories: list[list[str]], repeat: int) -> float:
    """Users a second, raw ids in, row numbers and scores out: what `unisrec recommend` does for a file."""
    best = float("inf")
    for _ in range(repeat):
        started = time.perf_counter()
        for start in range(0, len(histories), 4096):
            rows = [rows_of(rec.snapshot, history)[0] for history in histories[start : start + 4096]]
            rec.rank(rec.snapshot, rows, 10)
        best = min(best, time.perf_counter() - started)
    return len(histories) / best


def latencies(rec: Recommender, histories: list[list[str]]) -> tuple[float, float]:
    """p50 and p99 of single requests in ms."""
    set_threads(1)  # as in the service
    for history in histories[:20]:
        rec.recommend(history)
    seconds = []
    for history in histories:
        started = time.perf_counter()
        rec.recommend(history)
        seconds.append(time.perf_counter() - started)
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


def recbole_rate(model: Any, rec: Recommender, histories: list[list[str]], batch: int) -> float:
    """Users a second of `full_sort_topk` over as many users as take a few seconds."""
    from recbole.utils.case_study import full_sort_topk

    rows = [rows_of(rec.snapshot, history)[0] for history in histories]
    test = _Test(rows, rec.snapshot.n + 1, rec.window)
    full_sort_topk([1, 2], model, test, 10)
    done, started = 0, time.perf_counter()
    while done < len(rows) and time.perf_counter() - started < 10:
        full_sort_topk(list(range(done + 1, min(len(rows), done + batch) + 1)), model, test, 10)
        done = min(len(rows), done + batch)
    return done / (time.perf_counter() - started)


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
            self._cached = None

        def item_table(self, items: Any = None) -> Any:
            return self.table if items is None else self.table[items]

    return Served().eval()


def authors_model(authors: Path, rec: Recommender) -> Any:
    """The authors' UniSRec with random features of the right size: its time does not depend on their values."""
    spec = importlib.util.spec_from_file_location("authors_unisrec", authors / "unisrec.py")
    if spec is None or not (authors / "unisrec.py").is_file():
        raise UserError(f"{authors}/unisrec.py does not exist; give a checkout of the authors' repository by --authors")
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    s, n = rec.settings, rec.snapshot.n + 1

    class Data:
        plm_embedding = torch.nn.Embedding.from_pretrained(torch.randn(n, s.plm_size), padding_idx=0)

        @staticmethod
        def num(_: str) -> int:
            return n

    config = {
        "USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id", "LIST_SUFFIX": "_list", "NEG_PREFIX": "neg_",
        "ITEM_LIST_LENGTH_FIELD": "item_length", "MAX_ITEM_LIST_LENGTH": s.window, "device": torch.device("cpu"),
        "n_layers": s.n_layers, "n_heads": s.n_heads, "hidden_size": s.hidden_size, "inner_size": s.inner_size,
        "hidden_dropout_prob": 0.5, "attn_dropout_prob": 0.5, "hidden_act": s.hidden_act,
        "layer_norm_eps": s.layer_norm_eps, "initializer_range": 0.02, "loss_type": "CE", "temperature": 0.07,
        "lambda": 1e-3, "train_stage": "inductive_ft", "plm_size": s.plm_size, "adaptor_layers": [s.plm_size, s.hidden_size],
        "adaptor_dropout_prob": 0.2, "n_exps": s.n_exps,
    }  # fmt: skip
    return module.UniSRec(config, Data()).eval()


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
    parser.add_argument("--memory", type=float, default=6, help="GB that RecBole's way may take (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: %(default)s")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    rec = load(args.model, index="exact")
    parts = Parts(
        rec.meta, rec.settings, rec.network, rec.snapshot.items,
        rec.snapshot.vectors(torch.arange(rec.snapshot.n)).numpy(), None, rec.queries, None,
    )  # fmt: skip
    print(f"{rec.meta.model} {rec.meta.form}, window {rec.window}, torch {torch.__version__}, {args.threads} threads")
    head = ("items", "search", "built in s", "recall@10", "batch users/s", "single p50 ms", "p99 ms")
    lines = ["| " + " | ".join((*head, "RecBole users/s", "times", "authors in RecBole users/s", "times")) + " |"]
    lines.append("|" + "---:|" * 11)
    for n in args.sizes:
        rec, histories, seconds = grown(parts, n, args.users, args.index)
        index = rec.snapshot.index
        p50, p99 = latencies(rec, histories[: args.single])
        set_threads(args.threads)
        rate = batch_rate(rec, histories, args.repeat)
        cells = [f"{n:,}", "exact" if index is None else "IVF", "" if index is None else f"{seconds:.0f}",
                 "1" if index is None else f"{index.recall:.4f}", f"{rate:,.0f}", f"{p50:.2f}", f"{p99:.2f}"]  # fmt: skip
        width = rec.settings.hidden_size
        for make, per_item in (
            (our_model, 8 * width),
            (authors_model, 4 * (rec.settings.n_exps * 3 * width + 2 * rec.settings.plm_size)),
        ):
            fits = n * (per_item + 4 * 64) < args.memory * 1e9
            if not fits or (make is authors_model and args.authors is None):
                cells += ["does not fit" if not fits else "", ""]
                continue
            model = make(rec) if make is our_model else authors_model(args.authors, rec)
            batch = max(1, min(1024, int(args.memory * 1e9 / 4 / (4 * n))))
            theirs = recbole_rate(model, rec, histories, batch)
            cells += [f"{theirs:,.1f}", f"{rate / theirs:.1f}"]
            del model
            gc.collect()
        lines.append("| " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
        del rec, histories
        gc.collect()
    print("\n" + "\n".join(lines))


if __name__ == "__main__":
    sys.exit(run_cli(main))
