"""Starting from a pre-trained model: what is copied, what stays as it is, and what is refused."""

import json
import pickle
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import init_seed

from recbole_unisrec.checkpoint import save_checkpoint
from recbole_unisrec.cli import main
from recbole_unisrec.errors import UserError
from recbole_unisrec.model.unisrec import UniSRec
from recbole_unisrec.pretrained import load_pretrained
from recbole_unisrec.trainer import PackedTrainer

ENCODER = "random CLS, max_length 512"  # what conftest's ring says of its features


@pytest.fixture(autouse=True)
def _no_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["test"])


def build(settings: dict[str, Any]) -> tuple[UniSRec, tuple[Any, Any, Any], PackedTrainer]:
    config = Config(model="UniSRec", dataset="ring", config_dict={"train_stage": "inductive_ft", **settings})
    init_seed(config["seed"], True)
    parts = data_preparation(config, create_dataset(config))
    model = UniSRec(config, parts[0]._dataset)
    return model, parts, PackedTrainer(config, model)


@pytest.fixture
def checkpoint(ring: Path, small: dict[str, Any]) -> Path:
    model, _, _ = build({**small, "seed": 7})
    return save_checkpoint(Path("pre"), model.state_dict(), {"encoder": ENCODER, "config": {"n_exps": 3}, "epoch": 4})


def test_encoder_stays_and_adaptor_learns(checkpoint: Path, small: dict[str, Any]) -> None:
    before, _ = load_pretrained(checkpoint)
    model, (train, valid, _), trainer = build({**small, "pretrained": str(checkpoint), "epochs": 2})
    assert trainer.transfer is not None
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    trainer.fit(train, valid, saved=False)
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved
    assert all(name.startswith("moe_adaptor.") for name in moved)
    for frozen in ("LayerNorm.weight", "position_embedding.weight", "trm_encoder.layer.0.feed_forward.dense_1.weight"):
        assert frozen in trainer.transfer.frozen
    assert any(name.startswith("moe_adaptor.experts") for name in moved)


def test_ids_are_new_and_everything_learns_when_nothing_is_frozen(checkpoint: Path, small: dict[str, Any]) -> None:
    settings = {**small, "pretrained": str(checkpoint), "freeze": "none", "train_stage": "transductive_ft"}
    model, _, trainer = build(settings)
    assert trainer.transfer is not None
    assert trainer.transfer.new == ("item_embedding.weight",)
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("share", [0, 0.2])
def test_the_adaptor_starts_between_its_new_and_its_pretrained_weights(
    checkpoint: Path, small: dict[str, Any], share: float
) -> None:
    before, _ = load_pretrained(checkpoint)
    fresh = build(small)[0].state_dict()
    model, _, trainer = build({**small, "pretrained": str(checkpoint), "freeze": "none", "adaptor_share": share})
    for name, tensor in model.state_dict().items():
        expected = share * before[name] + (1 - share) * fresh[name] if name.startswith("moe_adaptor.") else before[name]
        torch.testing.assert_close(tensor, expected)
    assert any(not torch.equal(fresh[name], before[name]) for name in before if name.startswith("moe_adaptor.experts"))
    assert f"the adaptor is {share:g} of the file's weights" in str(trainer.transfer)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"adaptor_share": 1.5}, "adaptor_share must be a number from 0 .* not 1.5"),
        ({"adaptor_share": "half"}, "adaptor_share must be a number from 0 .* not 'half'"),
        ({"adaptor_share": 0.2, "freeze": "adaptor"}, "drop freeze=adaptor"),
        ({"adaptor_share": 0.2, "epochs": 0}, "train for an epoch or more"),
        ({"adaptor_share": 0.2, "pretrained": None}, "give pretrained=FILE or drop it"),
    ],
)
def test_an_adaptor_share_that_makes_no_sense_is_refused(
    checkpoint: Path, small: dict[str, Any], changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        build({**small, "pretrained": str(checkpoint), **changed})


@pytest.mark.parametrize("layout", ["file", "authors", "run"])
def test_every_layout_gives_the_same_weights(checkpoint: Path, layout: str) -> None:
    expected, _ = load_pretrained(checkpoint)
    path = checkpoint / "model.safetensors"
    if layout == "authors":
        path = Path("UniSRec-mix-4.pth")
        assert main(["export", "--pretrained", str(checkpoint), "--out", str(path)]) == 0
        assert set(torch.load(path, weights_only=True)) == {"config", "epoch", "encoder", "state_dict", "optimizer"}
    elif layout == "run":
        path = Path("run")
        shutil.copytree(checkpoint, path / "best")
    state, meta = load_pretrained(path)
    assert meta["encoder"] == ENCODER
    assert meta["config"]["n_exps"] == 3
    assert set(state) == set(expected)
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_recbole_checkpoint(ring: Path, small: dict[str, Any]) -> None:
    model, (train, valid, _), trainer = build({**small, "epochs": 1})
    trainer.fit(train, valid)
    state, meta = load_pretrained(trainer.saved_model_file)
    assert torch.equal(state["LayerNorm.weight"], model.LayerNorm.weight)
    assert meta["encoder"] == ""
    assert meta["config"]["hidden_size"] == small["hidden_size"]


@pytest.mark.parametrize("distributed", [False, True])
def test_what_the_authors_pretraining_saves(
    checkpoint: Path, small: dict[str, Any], monkeypatch: pytest.MonkeyPatch, distributed: bool
) -> None:
    """Their checkpoints hold a ``Config`` with a reference to their model class; ddp_pretrain.py has a class of its own."""
    model, _, _ = build(small)
    config = Config(model="UniSRec", dataset="ring", config_dict=small)
    config.model_class = type("UniSRec", (), {"__module__": "unisrec"})
    if distributed:
        config.__class__ = type("Config", (Config,), {"__module__": "config"})
    with monkeypatch.context() as patch:
        for found in (config.model_class, type(config)):
            module = types.ModuleType(found.__module__)
            setattr(module, found.__name__, found)
            patch.setitem(sys.modules, found.__module__, module)
        optimizer = torch.optim.Adam(model.parameters()).state_dict()
        content = {"config": config, "epoch": 299, "state_dict": model.state_dict(), "optimizer": optimizer}
        torch.save(content, "UniSRec-mix-300.pth")
    assert "unisrec" not in sys.modules
    state, meta = load_pretrained("UniSRec-mix-300.pth")
    assert meta["config"]["dataset"] == "ring"
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def test_export_says_what_is_wrong(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--pretrained", str(checkpoint), "--out", "model.bin"]) == 1
    assert "must end in .pth" in capsys.readouterr().err
    assert main(["export", "--pretrained", "absent", "--out", "model.pth"]) == 1
    assert "no checkpoint absent" in capsys.readouterr().err
    assert not Path("model.pth").exists()


def test_another_architecture_is_named(checkpoint: Path, small: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"another architecture: LayerNorm.bias is \[16\] there and \[32\] here"):
        build({**small, "pretrained": str(checkpoint), "hidden_size": 32})


def test_another_text_encoder_is_refused(checkpoint: Path, small: dict[str, Any]) -> None:
    beside = checkpoint / "config.json"
    beside.write_text(
        json.dumps({**json.loads(beside.read_text()), "encoder": "bert-base-uncased CLS, max_length 512"})
    )
    with pytest.raises(UserError, match=r"trained on text features of bert-base-uncased CLS.*random CLS"):
        build({**small, "pretrained": str(checkpoint)})


def test_features_scaled_in_another_way_are_refused_unless_the_adaptor_is_new(
    checkpoint: Path, small: dict[str, Any]
) -> None:
    beside = checkpoint / "config.json"
    meta = json.loads(beside.read_text())
    beside.write_text(json.dumps({**meta, "config": {**meta["config"], "feature_scaling": "whiten"}}))
    build({**small, "pretrained": str(checkpoint), "feature_scaling": "whiten"})
    with pytest.raises(UserError, match=r"trained with feature_scaling=whiten, but this run has feature_scaling=none"):
        build({**small, "pretrained": str(checkpoint)})
    build({**small, "pretrained": str(checkpoint), "freeze": "none", "adaptor_share": 0})


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("harm", "w"))


def test_bad_files_are_refused_without_running_them(checkpoint: Path) -> None:
    Path("evil.pth").write_bytes(pickle.dumps(Evil()))
    torch.save({"state_dict": Evil()}, "evil2.pth")
    for name in ("evil.pth", "evil2.pth"):
        with pytest.raises(UserError, match="cannot load"):
            load_pretrained(name)
    assert not Path("harm").exists()
    torn = checkpoint / "model.safetensors"
    torn.write_bytes(torn.read_bytes()[:-100])
    with pytest.raises(UserError, match="torn"):
        load_pretrained(checkpoint)
    with pytest.raises(UserError, match="no checkpoint"):
        load_pretrained("absent.pth")
    Path("empty").mkdir()
    with pytest.raises(UserError, match="holds no checkpoint"):
        load_pretrained("empty")
    torch.save({"state_dict": {"a": 3}}, "odd.pth")
    with pytest.raises(UserError, match="no weights"):
        load_pretrained("odd.pth")
