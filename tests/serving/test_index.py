"""Top-k against a plain sort."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_unisrec.serving import index as search

pytestmark = pytest.mark.hardware


def plain(query, table, k, hidden, dead):
    """The answer by sorting all scores."""
    scores = query @ table.T
    for q, item in hidden:
        scores[q, item] = -torch.inf
    scores[:, dead] = -torch.inf
    values, rows = scores.sort(dim=1, descending=True, stable=True)
    values, rows = values[:, :k], rows[:, :k]
    return values, torch.where(values == -torch.inf, -1, rows)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 700),
    batch=st.integers(1, 9),
    k=st.integers(1, 40),
    block=st.sampled_from([300, 2_000, 8_000_000]),
    whole=st.booleans(),
)
def test_exact_topk_is_the_sort(seed: int, n: int, batch: int, k: int, block: int, whole: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    query = torch.randint(-3, 4, (batch, 4), generator=generator).float()  # whole numbers: many ties, no rounding
    table = torch.randint(-3, 4, (n, 4), generator=generator).float()
    if not whole:
        table += torch.rand(n, 4, generator=generator) / 1024
    pairs = [(q, i) for q in range(batch) for i in range(n) if (q * 31 + i * 7 + seed) % 11 == 0]
    pairs.sort(key=lambda pair: pair[1])
    dead = torch.tensor([i for i in range(n) if (i + seed) % 13 == 0], dtype=torch.int64)
    hidden = (torch.tensor([q for q, _ in pairs]), torch.tensor([i for _, i in pairs])) if pairs else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "SCORES", block)
        best, rows = search.exact_topk(query, table, k, hidden, dead)
    values, wanted = plain(query, table, min(k, n), pairs, dead)
    assert torch.equal(best, values) if whole else torch.allclose(best, values, atol=1e-5)
    found = rows >= 0
    assert torch.equal(found, wanted >= 0)
    q = torch.arange(batch).unsqueeze(1).expand_as(rows)
    assert torch.allclose((query[q[found]] * table[rows[found]]).sum(1), best[found], atol=1e-5)
    for own in rows.tolist():
        there = [row for row in own if row >= 0]
        assert len(set(there)) == len(there)
        assert not set(there) & set(dead.tolist())
    assert not {(q, row) for q, own in enumerate(rows.tolist()) for row in own} & set(pairs)


def test_many_queries_are_cut_into_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    query, table = torch.rand(50, 8, generator=generator), torch.rand(400, 8, generator=generator)
    pairs = torch.tensor([[q, (q * 7 + j) % 400] for q in range(50) for j in range(5)])
    pairs = pairs[pairs[:, 1].argsort()]
    none = torch.zeros(0, dtype=torch.int64)
    whole = search.exact_topk(query, table, 5, (pairs[:, 0], pairs[:, 1]), none)
    monkeypatch.setattr(search, "QUERIES", 7)
    cut = search.exact_topk(query, table, 5, (pairs[:, 0], pairs[:, 1]), none)
    assert torch.equal(whole[1], cut[1])


def clustered(n: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((200, 24))
    points = centres[rng.integers(200, size=n)] + 0.4 * rng.standard_normal((n, 24))
    return torch.nn.functional.normalize(torch.from_numpy(points.astype(np.float32)), dim=1)


def test_the_approximate_index_reaches_its_recall() -> None:
    pytest.importorskip("faiss", reason="the extra index is not installed")
    table, queries = clustered(6000), clustered(200, seed=1)
    built = search.build_index(table, queries)
    assert built.recall >= 0.99
    assert built.n_probe < built.faiss_index.nlist / 2  # it does not search everything
    # measured again, by hand
    scores, exact = search.exact_topk(queries, table, 10)
    rows = built.search(queries, 10)
    none = torch.zeros(0, dtype=torch.int64)
    best, found = search.rescore(queries, table, rows, 10, None, none)
    share = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), exact.tolist(), strict=True)])
    assert share == pytest.approx(built.recall)
    assert torch.allclose(best[:, 0], (queries * table[found[:, 0]]).sum(1), atol=1e-6)
    # an index that looks into one cell finds less
    poor = search.ApproximateIndex(built.faiss_index, built.n, 1, 0.0, 0)
    few = search.rescore(queries, table, poor.search(queries, 10), 10, None, none)[0]
    assert search.recall_at_k(few, scores) < 0.9


def test_equal_items_are_equally_right() -> None:
    pytest.importorskip("faiss", reason="the extra index is not installed")
    points = torch.nn.functional.normalize(torch.randn(300, 24, generator=torch.Generator().manual_seed(0)), dim=1)
    table = points.repeat(20, 1)  # each item twenty times: which of them are found is chance
    # each query lies at an item, so that a rounded coordinate, which processors sum in their own order, swaps no two
    built = search.build_index(table, points[:100], target=1.0)
    assert built.recall == 1
    assert built.n_probe < built.faiss_index.nlist


def test_without_faiss_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(search.UserError, match="pip install"):
        search.build_index(clustered(100), clustered(5))
