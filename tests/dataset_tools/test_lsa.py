import json
from pathlib import Path

import numpy as np
import pytest

from dataset_tools import lsa
from dataset_tools.common import UserError
from dataset_tools.features import encode_dataset
from dataset_tools.lsa import LatentSemantics

TEXTS = ["red wool scarf", "blue wool scarf", "red cotton hat", "blue cotton hat", "steel hammer", "steel saw hammer"]


def test_texts_of_one_topic_lie_together() -> None:
    x = LatentSemantics.fit(TEXTS, width=3).encode(TEXTS)
    cosine = x @ x.T / np.linalg.norm(x, axis=1) / np.linalg.norm(x, axis=1)[:, None]
    assert x.shape == (6, 3)
    assert cosine[4, 5] > 0.9
    assert cosine[0, 1] > 0.9
    assert abs(cosine[:4, 4:]).max() < 0.1


def test_at_full_rank_products_are_those_of_tf_idf() -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer

    table = TfidfVectorizer(sublinear_tf=True, min_df=2).fit_transform(TEXTS)
    rank = np.linalg.matrix_rank(table.toarray())
    model = LatentSemantics.fit(TEXTS)
    assert model.width == min(table.shape) - 1 >= rank
    x = model.encode(TEXTS)
    np.testing.assert_allclose(x @ x.T, (table @ table.T).toarray(), atol=1e-5)


def test_saved_and_loaded_vectors_are_the_same(tmp_path: Path) -> None:
    model = LatentSemantics.fit(TEXTS, width=3)
    model.save(tmp_path / "fitted.npz")
    again = LatentSemantics.load(tmp_path / "fitted.npz")
    assert again.name == model.name
    new = ["green wool hat", "nothing known", ""]
    np.testing.assert_array_equal(again.encode(new), model.encode(new))
    assert not again.encode(new)[1:].any()


@pytest.mark.parametrize("texts", [["one", "two", "three"], [], ["same same", "same"], ["mug"] * 3, ["blue mug"] * 3])
def test_too_little_in_common(texts: list[str]) -> None:
    with pytest.raises(UserError, match="use --encoder minilm"):
        LatentSemantics.fit(texts)


def test_a_torn_or_foreign_file(tmp_path: Path) -> None:
    path = tmp_path / "fitted.npz"
    LatentSemantics.fit(TEXTS, width=3).save(path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"text", b""):
        path.write_bytes(content)
        with pytest.raises(UserError, match="no fitted text encoder"):
            LatentSemantics.load(path)
    np.savez(path, terms=np.zeros(3, np.uint8), idf=np.zeros(5), components=np.zeros((2, 5)))
    with pytest.raises(UserError, match="does not add up"):
        LatentSemantics.load(path)


def test_feature_files(tmp_path: Path) -> None:
    for name, texts in (("a", TEXTS), ("b", [*TEXTS[::-1], "green wool"])):
        (tmp_path / name).mkdir()
        lines = [f"i{i}\t{text}" for i, text in enumerate(texts)]
        (tmp_path / name / f"{name}.item").write_text("\n".join(["item_id:token\ttext:token_seq", *lines]) + "\n")
    path = encode_dataset(tmp_path / "a", "a", encoder=lsa.NAME)
    assert path.name == "a.feat1LSA"
    fitted = tmp_path / "a" / "a.feat1LSA.npz"
    meta = json.loads((tmp_path / "a" / "a.feat1LSA.json").read_text())
    assert meta["encoder"] == LatentSemantics.load(fitted).name
    x = np.fromfile(path, np.float32).reshape(-1, meta["width"])
    stamp = path.stat().st_mtime_ns
    encode_dataset(tmp_path / "a", "a", encoder=lsa.NAME)
    assert path.stat().st_mtime_ns == stamp  # it is current
    other = encode_dataset(tmp_path / "b", "b", encoder=str(fitted))
    y = np.fromfile(other, np.float32).reshape(-1, meta["width"])
    np.testing.assert_allclose(y[:6][::-1], x, atol=1e-6)
    assert json.loads((tmp_path / "b" / "b.feat1LSA.json").read_text())["encoder"] == meta["encoder"]
    with pytest.raises(UserError, match=r"give --encoder .*a\.feat1LSA\.npz"):
        encode_dataset(tmp_path / "a", "a", encoder=lsa.NAME, word_drop=0.6)
    dropped = encode_dataset(tmp_path / "a", "a", encoder=str(fitted), word_drop=0.6)
    assert dropped.name == "a.feat2LSA"
    assert not np.array_equal(np.fromfile(dropped, np.float32), x.ravel())


def _cosine(model: lsa.LatentSemantics, a: str, b: str) -> float:
    x, y = model.encode([a, b])
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


@pytest.mark.parametrize(
    ("colours", "things", "red", "blue", "other"),
    [
        (["赤い", "青い", "白い", "緑の"], ["椅子", "本棚", "時計", "ランプ"], "赤い椅子", "青い椅子", "白い時計"),
        (["红色", "蓝色", "白色"], ["椅子", "书架", "时钟", "地毯"], "红色椅子", "蓝色椅子", "白色时钟"),
        (["สีแดง", "สีฟ้า", "สีขาว"], ["เก้าอี้", "โต๊ะ", "โคมไฟ"], "เก้าอี้สีแดง", "เก้าอี้สีฟ้า", "โต๊ะสีขาว"),
    ],
)
def test_scripts_without_blanks(colours: list[str], things: list[str], red: str, blue: str, other: str) -> None:
    thai = "สีแดง" in colours
    texts = [thing + colour if thai else colour + thing for colour in colours for thing in things]
    model = lsa.LatentSemantics.fit(texts)
    assert model.ngrams == "auto"
    assert _cosine(model, red, blue) > _cosine(model, red, other) + 0.3


def test_english_is_as_it_was(tmp_path: Path) -> None:
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(["red", "blue", "oak", "chair", "lamp", "desk", "café"], 4)) for _ in range(60)]
    model = lsa.LatentSemantics.fit(texts)
    table = TfidfVectorizer(sublinear_tf=True, min_df=2).fit_transform(texts)
    svd = TruncatedSVD(min(lsa.WIDTH, min(table.shape) - 1), n_iter=lsa.ITERATIONS, random_state=0).fit(table)
    np.testing.assert_array_equal(
        model.encode(texts), (table @ svd.components_.astype(np.float32).T).astype(np.float32)
    )
    assert model.ngrams == "none"
    # pieces stand beside the words, and say what compounds share
    assert lsa.words_and_pieces("red chair", "auto") == ["red", "chair"]
    german = [f"{a}{b}" for a in ("holz", "stahl", "garten") for b in ("stuhl", "tisch", "lampe")]
    pieces = lsa.LatentSemantics.fit(german, ngrams="all")
    assert _cosine(pieces, "holzstuhl", "gartenstuhl") > _cosine(pieces, "holzstuhl", "gartentisch") + 0.1
    again = lsa.LatentSemantics.load(_saved(pieces, tmp_path))
    assert (again.ngrams, again.name) == ("all", pieces.name)
    np.testing.assert_array_equal(again.encode(german), pieces.encode(german))
    with pytest.raises(UserError, match="unknown choice of pieces 'some'"):
        lsa.LatentSemantics.fit(german, ngrams="some")


def _saved(model: lsa.LatentSemantics, folder: Path) -> Path:
    model.save(folder / "x.npz")
    return folder / "x.npz"


@pytest.mark.parametrize(
    "texts",
    [
        ["Mug 1", "Mug 2", "Mug 3"],
        ["T-shirt S", "T-shirt M", "T-shirt L"],
        ["Blue mug large", "Blue mug small", "Blue mug"],
        ["Oak desk 120", "Oak desk 160", "Oak desk, 180"],
        ["赤い椅子 1", "赤い椅子 2", "赤い椅子 3"],
    ],
)
def test_a_few_texts_that_are_nearly_equal_get_vectors_of_their_own(texts: list[str], tmp_path: Path) -> None:
    model = lsa.LatentSemantics.fit(texts)
    x = model.encode(texts)
    cosine = x @ x.T / np.linalg.norm(x, axis=1) / np.linalg.norm(x, axis=1)[:, None]
    assert cosine[~np.eye(len(texts), dtype=bool)].max() < 0.95
    assert cosine.min() > 0.05  # and the words that they share keep them near each other
    assert model.width <= len(texts)
    again = lsa.LatentSemantics.load(_saved(model, tmp_path))
    assert again.name == model.name
    np.testing.assert_array_equal(again.encode(texts), x)


def test_many_texts_are_read_as_before() -> None:
    texts = [f"mug number{n}" for n in range(lsa.FEW + 1)]  # the numbers are words of a single text
    with pytest.raises(UserError, match="51 texts with 1 terms are too few"):
        lsa.LatentSemantics.fit(texts)
    assert lsa.LatentSemantics.fit(texts[:-1]).ngrams == lsa.SHORT
    assert lsa.LatentSemantics.fit(TEXTS).ngrams == "none"
