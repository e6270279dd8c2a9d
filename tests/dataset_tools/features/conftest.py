"""Small language models made on the spot, texts for them, and the plain way to encode."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    BertTokenizerFast,
    DistilBertConfig,
    DistilBertModel,
)

WORDS = [f"w{i}" for i in range(40)]


def save_model(folder: Path, kind: str) -> str:
    folder.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "query", ":", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    model: torch.nn.Module
    if kind == "bert":
        # weights far from the initial 0.02, so that attention and GELU matter
        model = BertModel(
            BertConfig(
                vocab_size=len(vocabulary),
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=64,
                max_position_embeddings=160,
                initializer_range=0.3,
            )
        )
    else:
        model = DistilBertModel(
            DistilBertConfig(
                vocab_size=len(vocabulary), dim=32, n_layers=2, n_heads=4, hidden_dim=64, initializer_range=0.3
            )
        )
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Models this small only wait for a second thread, and the bytes depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("models") / "bert", "bert")


@pytest.fixture(scope="session")
def distilbert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("models") / "distilbert", "distilbert")


@pytest.fixture(scope="session")
def texts() -> list[str]:
    rng = np.random.default_rng(0)
    lengths = [*rng.integers(1, 30, 90), 140, 150, 400]  # beyond 128 another attention; 400 is truncated
    return [" ".join(rng.choice(WORDS, n)) for n in lengths]


def plainly(model_folder: str, texts: list[str], pooling: str, limit: int = 512) -> np.ndarray:
    """Four texts at a time in the order given, with the model of transformers and nothing else."""
    tokenizer, model = AutoTokenizer.from_pretrained(model_folder), AutoModel.from_pretrained(model_folder).eval()
    limit = min(limit, model.config.max_position_embeddings)
    rows = []
    for start in range(0, len(texts), 4):
        batch = tokenizer(
            texts[start : start + 4], padding=True, truncation=True, max_length=limit, return_tensors="pt"
        )
        batch.pop("token_type_ids", None)
        with torch.no_grad():
            hidden = model(**batch).last_hidden_state
        for vectors, mask in zip(hidden, batch["attention_mask"], strict=True):
            rows.append(vectors[0] if pooling == "CLS" else vectors[1 : int(mask.sum())].mean(0))
    return torch.stack(rows).numpy()


def make_dataset(folder: Path, texts: list[str], name: str = "toy") -> Path:
    folder.mkdir(exist_ok=True)
    rows = [f"item{i}\t{text}\n" for i, text in enumerate(texts)]
    (folder / f"{name}.text").write_text("item_id:token\ttext:token_seq\n" + "".join(rows))
    return folder
