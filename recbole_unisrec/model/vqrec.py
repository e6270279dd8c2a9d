"""VQ-Rec: items known by discrete codes of their texts, each code with an embedding of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_unisrec.errors import UserError
from recbole_unisrec.model.base import TableRecommender
from recbole_unisrec.setting_table import CodeSettings

SAMPLE = 65_536  # items that the codes are learned from, at most
ROTATIONS, STEPS = 20, 10  # alternations of rotation and centroids, and steps of k-means after them
BLOCK = 16_384  # items compared with the centroids at a time


class VQRec(TableRecommender):
    """VQ-Rec (Hou et al., "Learning Vector-Quantized Item Representation for Transferable Sequential Recommenders", WWW 2023).

    The text vector of an item is quantized to D codes of K values each by optimized product quantization,
    c_i = (c_i1, ..., c_iD) (their Eq. 1), learned once, without labels. The item's vector is the mean of the embeddings
    of its codes, v_i = 1/D · Σ_k E_k[c_ik] (Eq. 2, 3). SASRec's encoder reads them (Eq. 4, 5), and the score is the cosine with the
    output, divided by τ. Items whose texts have one code have one vector. From scratch, as here, there is no pre-training and
    no permutation of codes. Item 0, the padding, has the vector 0.

    Parameters
    ----------
    config
        Reads ``n_codes`` (D), ``code_size`` (K) and ``temperature`` (τ).
    dataset
        A dataset with ``features`` and ``known_features``.

    Raises
    ------
    UserError
        If the width of the text vectors is no multiple of ``n_codes``.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        s = CodeSettings.from_config(config)
        super().__init__(config, dataset, cosine=True, temperature=s.temperature)
        n_codes, size = s.n_codes, s.code_size
        known = dataset.known_features.float()
        if known.shape[1] % n_codes:
            raise UserError(
                f"the text vectors are {known.shape[1]} wide, which {n_codes} codes cannot share; set n_codes to a divisor"
            )
        quantizer = fit(known, n_codes, min(size, len(known)))
        codes = quantizer.encode(dataset.features.weight[1:].float())
        place = torch.arange(n_codes) * size  # each code has embeddings of its own
        self.register_buffer("codes", F.pad(codes + place, (0, 0, 1, 0)).int())
        self.codes: Tensor  # int32 [n_items, D], rows of `code_embedding`
        self.code_embedding = nn.Embedding(n_codes * size, self.hidden_size)
        self.apply(self.init_weights)
        self.add_text_path(config, dataset)

    def item_table(self, items: Tensor | None = None) -> Tensor:
        """Means of the code embeddings [n_items, d] or [..., d]."""
        if items is None:
            return F.pad(F.embedding_bag(self.codes[1:], self.code_embedding.weight, mode="mean"), (0, 0, 1, 0))
        codes = self.codes[items.reshape(-1)]
        vectors = F.embedding_bag(codes, self.code_embedding.weight, mode="mean")
        return vectors.reshape(*items.shape, -1) * (items != 0).unsqueeze(-1)


# --- codes


@dataclass(frozen=True)
class Quantizer:
    """Optimized product quantization: a shift, a rotation, and K centroids for each group of columns.

    Attributes
    ----------
    mean
        float32 [d].
    rotation
        float32 [d, d], orthonormal.
    centroids
        float32 [D, K, d / D].
    """

    mean: Tensor
    rotation: Tensor
    centroids: Tensor

    def encode(self, x: Tensor) -> Tensor:
        """The nearest centroid of each group, int64 [n, D], of vectors [n, d]."""
        parts = ((x - self.mean) @ self.rotation).chunk(len(self.centroids), dim=1)
        return torch.stack([nearest(p, c) for p, c in zip(parts, self.centroids, strict=True)], dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """Vectors [n, d] that codes [n, D] stand for."""
        parts = [c[codes[:, i]] for i, c in enumerate(self.centroids)]
        return torch.cat(parts, dim=1) @ self.rotation.T + self.mean


@torch.no_grad()
def fit(x: Tensor, n_codes: int, size: int) -> Quantizer:
    """Learn the codes of vectors (Ge et al., "Optimized Product Quantization", TPAMI 2014); the same each time.

    The rotation begins with the eigenvectors, dealt out so that all groups have much the same product of variances (their
    parametric solution). Then centroids and rotation are made anew in turn, the latter by orthogonal Procrustes.

    Parameters
    ----------
    x
        float32 [n, d].
    n_codes
        Groups D, a divisor of d.
    size
        Centroids K of each group, at most n.
    """
    generator = torch.Generator().manual_seed(0)
    if len(x) > SAMPLE:
        x = x[torch.randperm(len(x), generator=generator)[:SAMPLE]]
    mean = x.mean(dim=0)
    x = x - mean
    rotation = dealt_eigenvectors(x, n_codes)
    start = torch.randperm(len(x), generator=generator)[:size]
    centroids = torch.stack((x[start] @ rotation).chunk(n_codes, dim=1))  # (D, K, d/D)
    for step in range(ROTATIONS + STEPS):
        parts = (x @ rotation).chunk(n_codes, dim=1)
        codes = [nearest(p, c) for p, c in zip(parts, centroids, strict=True)]
        centroids = torch.stack([moved(p, c, code) for p, c, code in zip(parts, centroids, codes, strict=True)])
        if step < ROTATIONS:
            stand = torch.cat([c[code] for c, code in zip(centroids, codes, strict=True)], dim=1)
            u, _, v = torch.linalg.svd((x.T @ stand).double())
            rotation = (u @ v).to(x.dtype)
    return Quantizer(mean, rotation, centroids)


def dealt_eigenvectors(x: Tensor, n_groups: int) -> Tensor:
    """Eigenvectors of the covariance of centred `x`, [d, d], each dealt to the group whose product of variances is least."""
    values, vectors = torch.linalg.eigh((x.T @ x).double() / len(x))
    room = x.shape[1] // n_groups
    groups: list[list[int]] = [[] for _ in range(n_groups)]
    product = [
        0.0
    ] * n_groups  # in logarithms, in units of the least value: else a small one would make room for the next
    values = values.clamp(min=1e-9 * float(values[-1])).log()
    values = values - values[0]
    for i in reversed(range(len(values))):
        g = min((g for g in range(n_groups) if len(groups[g]) < room), key=lambda g: product[g])
        groups[g].append(i)
        product[g] += float(values[i])
    return vectors[:, [i for group in groups for i in group]].to(x.dtype)


def nearest(x: Tensor, centroids: Tensor) -> Tensor:
    """Index of the nearest of the centroids [K, w], int64 [n], for each of [n, w]."""
    length = centroids.square().sum(dim=1)
    return torch.cat([(length - 2 * block @ centroids.T).argmin(dim=1) for block in x.split(BLOCK)])


def moved(x: Tensor, centroids: Tensor, codes: Tensor) -> Tensor:
    """Means [K, w] of the vectors [n, w] of each code; a centroid without any moves to a vector that is far from its own."""
    count = torch.bincount(codes, minlength=len(centroids))
    total = torch.zeros_like(centroids).index_add_(0, codes, x)
    found = total / count.clamp(min=1).unsqueeze(1)
    empty = (count == 0).nonzero().squeeze(1)
    if len(empty):
        far = (x - found[codes]).square().sum(dim=1).topk(len(empty)).indices
        found[empty] = x[far]
    return found
