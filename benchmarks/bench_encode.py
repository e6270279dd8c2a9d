"""Measure the encoding of item texts: other ways against `dataset_tools.features`, in one run.

    python benchmarks/bench_encode.py --texts dataset/Scientific --authors ../UniSRec --compile

AUTHORS is a checkout of the authors' repository, whose own function is called: batches of four in file order.
``sorted`` is the way of sentence-transformers: the model of transformers, 32 texts a batch, the longest first.
``compiled`` is ours with torch.compile (needs a C++ compiler). Every way encodes the same texts, tokenization included, the loading of the model
not. The ways take turns, and of each the fastest of --repeat turns is shown, so that a busy moment of the machine harms
no single one.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from dataset_tools.common import UserError, run_cli  # noqa: E402
from dataset_tools.features import POOLINGS, TextEncoder, read_texts  # noqa: E402
from dataset_tools.features.encoder import minilm_folder, quiet  # noqa: E402


def authors_way(authors: Path, encoder: str, pooling: str, device: str) -> Callable[[list[str]], np.ndarray]:
    """The authors' `generate_item_embedding`, loaded from their repository."""
    from transformers import AutoModel, AutoTokenizer

    script = authors / "dataset" / "preprocessing" / "process_amazon.py"
    if not script.is_file():
        raise UserError(f"{script} does not exist; give a checkout of the authors' repository by --authors")
    sys.path.insert(0, str(script.parent))
    spec = importlib.util.spec_from_file_location("process_amazon", script)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    where = minilm_folder() if encoder == "minilm" else encoder
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(where)
        model = AutoModel.from_pretrained(where).eval().to(device)

    def encode(texts: list[str]) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            os.mkdir(os.path.join(folder, "set"))
            options = SimpleNamespace(emb_type=pooling, dataset="set", output_path=folder, device=device)
            pairs = [[str(i), text] for i, text in enumerate(texts)]
            index = {str(i): i for i in range(len(texts))}
            module.generate_item_embedding(options, pairs, index, tokenizer, model)
            return np.fromfile(os.path.join(folder, "set", f"set.feat1{pooling}"), np.float32).reshape(len(texts), -1)

    return encode


def sorted_way(encoder: str, pooling: str, device: str) -> Callable[[list[str]], np.ndarray]:
    """What sentence-transformers does: sort by length, 32 texts a batch, restore the order."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    where = minilm_folder() if encoder == "minilm" else encoder
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(where)
        model = AutoModel.from_pretrained(where).eval().to(device)

    def encode(texts: list[str]) -> np.ndarray:
        order = np.argsort([-len(text) for text in texts], kind="stable")
        out = np.empty((len(texts), model.config.hidden_size), np.float32)
        for start in range(0, len(texts), 32):
            rows = order[start : start + 32]
            batch = tokenizer(
                [texts[row] for row in rows], padding=True, truncation=True, max_length=512, return_tensors="pt"
            ).to(device)
            with torch.inference_mode():
                hidden = model(**batch).last_hidden_state
                inner = batch["attention_mask"][:, 1:, None].float()
                mean = (hidden[:, 1:] * inner).sum(1) / inner.sum(1).clamp(min=1)
                out[rows] = (hidden[:, 0] if pooling == "CLS" else mean).float().cpu().numpy()
        return out

    return encode


def compiled_way(*settings: str) -> Callable[[list[str]], np.ndarray]:
    """`TextEncoder` with the model compiled."""
    import torch

    encoder, pooling, precision, device = settings
    found = TextEncoder.load(encoder, pooling, precision=precision, device=device)
    found._model = torch.compile(found._model, dynamic=True)
    return found.encode


def main(arguments: list[str]) -> None:
    """The command line; see ``--help``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, required=True, help="a dataset's folder, or its NAME.text")
    parser.add_argument("--authors", type=Path, help="checkout of the authors' repository (default: without their way)")
    parser.add_argument("--compile", action="store_true", help="also with torch.compile")
    parser.add_argument("--encoder", default="minilm", help="default: %(default)s")
    parser.add_argument("--pooling", choices=POOLINGS, default="CLS", help="default: %(default)s")
    parser.add_argument("--limit", type=int, help="encode this many texts, evenly spread (default: all)")
    parser.add_argument("--repeat", type=int, default=1, help="turns of each way (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of a CPU (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    args = parser.parse_args(arguments)
    import torch

    torch.set_num_threads(args.threads)
    folder = args.texts if args.texts.is_dir() else args.texts.parent
    name = args.texts.resolve().name if args.texts.is_dir() else args.texts.name.removesuffix(".text")
    _, texts = read_texts(folder, name)
    if args.limit and args.limit < len(texts):
        texts = [texts[i * len(texts) // args.limit] for i in range(args.limit)]
    ways: dict[str, Callable[[list[str]], np.ndarray]] = {}
    if args.authors:
        ways["authors"] = authors_way(args.authors, args.encoder, args.pooling, args.device)
    ways["sorted"] = sorted_way(args.encoder, args.pooling, args.device)
    for precision in ("fp32", "bf16"):
        if args.compile:
            ways[f"compiled {precision}"] = compiled_way(args.encoder, args.pooling, precision, args.device)
    for precision in ("fp32", "bf16"):
        ways[precision] = TextEncoder.load(args.encoder, args.pooling, precision=precision, device=args.device).encode
    seconds = dict.fromkeys(ways, float("inf"))
    vectors: dict[str, np.ndarray] = {}
    for way in ways.values():
        way(texts[:: max(1, len(texts) // 64)])  # the first call pays for threads, kernels and compiling
    for _ in range(args.repeat):
        for label, way in ways.items():
            start = time.perf_counter()
            vectors[label] = way(texts)
            seconds[label] = min(seconds[label], time.perf_counter() - start)
    first = next(iter(ways))
    exact = vectors[first].astype(np.float64)
    where = f"{args.device}, {args.threads} threads, torch {torch.__version__}"
    print(f"{len(texts)} texts, {args.encoder} {args.pooling}, {where}\n")
    print(f"| way | texts/s | times {first} | largest difference | worst cosine |\n|---|---:|---:|---:|---:|")
    for label in ways:
        found = vectors[label].astype(np.float64)
        cosine = (found * exact).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(exact, axis=1)
        print(
            f"| {label} | {len(texts) / seconds[label]:.0f} | {seconds[first] / seconds[label]:.2f} | "
            f"{np.abs(found - exact).max():.1e} | {cosine.min():.6f} |"
        )


if __name__ == "__main__":
    sys.exit(run_cli(main))
