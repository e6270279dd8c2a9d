"""One run: other splits and modes than the usual one, and what may go wrong while it is at work."""

import json
import logging
import math
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.sampler import RepeatableSampler
from recbole.trainer import Trainer

from dataset_tools.common import run_cli
from recbole_unisrec import quick_start
from recbole_unisrec.cli import train_command
from recbole_unisrec.errors import UserError
from recbole_unisrec.evaluation import read_ranks
from recbole_unisrec.settings import build_config

SMALL = {
    "hidden_size": 16, "embedding_size": 16, "inner_size": 16, "epochs": 2, "use_gpu": False, "show_progress": False,
    "topk": [3, 5], "valid_metric": "NDCG@3", "MAX_ITEM_LIST_LENGTH": 8,
}  # fmt: skip


def eval_args(split: dict[str, Any], order: str = "TO", mode: Any = "full", group_by: str = "user") -> dict[str, Any]:
    return {"split": split, "order": order, "mode": mode, "group_by": group_by}


def run(model: str, **settings: Any) -> tuple[quick_start.Result, list[str]]:
    said: list[str] = []
    small = {k: v for k, v in SMALL.items() if model != "NARM" or k != "inner_size"}
    small = {k: v for k, v in small.items() if k != "embedding_size" or model == "NARM"}
    config = build_config(model, "ring", [], {**small, **settings})
    return quick_start.train(config, tell=said.append), said


@pytest.mark.parametrize(("mode", "made"), [("full", 0), ("uni5", 2), ({"valid": "uni5", "test": "full"}, 1)])
@pytest.mark.usefixtures("ring")
def test_ranking_all_items_makes_no_set_for_each_user(mode: Any, made: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    sets = RepeatableSampler.get_used_ids
    monkeypatch.setattr(RepeatableSampler, "get_used_ids", lambda self: found.append(self.user_num) or sets(self))
    settings = {name: value for name, value in SMALL.items() if name != "embedding_size"}
    config = build_config("SASRecPacked", "ring", [], {**settings, "eval_args": {"mode": mode}})
    before = dict(config.final_config_dict)
    quick_start.make_data(config)
    assert len(found) == made
    assert config.final_config_dict == before


@pytest.mark.parametrize("model", ["SASRec", "NARM"])
@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (eval_args({"RS": [0.5, 0.2, 0.3]}), "valid test"),
        (eval_args({"LS": "test_only"}), "test"),
        (eval_args({"LS": "valid_only"}), "valid"),
        (eval_args({"LS": "valid_and_test"}, mode="uni20"), "valid test"),
        (eval_args({"LS": "valid_and_test"}, mode={"valid": "uni10", "test": "full"}), "valid test"),
    ],
)
@pytest.mark.usefixtures("ring")
def test_recboles_models_with_any_split_give_their_metrics(model: str, args: dict[str, Any], parts: str) -> None:
    result, said = run(model, eval_args=args)
    written = json.loads(Path(result.checkpoint).with_suffix(".json").read_text())
    for part in ("valid", "test"):
        assert set(written[part]) == ({"hit@3", "hit@5", "ndcg@3", "ndcg@5"} if part in parts.split() else set())
    assert [epoch["epoch"] for epoch in written["epochs"]] == [0, 1]
    assert all(math.isfinite(epoch["loss"]) for epoch in written["epochs"])
    assert sum("valid NDCG@3" in line for line in said) == (2 if "valid" in parts else 0)
    assert bool(result.ranks) == bool(result.groups) == ("test" in parts)
    if result.ranks:
        users, ranks = read_ranks(result.ranks)
        assert sum(group["users"] for group in result.groups["popularity"].values()) == len(ranks)
        if (
            args["split"].get("LS") and args["mode"] != "uni20"
        ):  # of several items to find, RecBole's HIT is any of them
            assert len(users) == len(set(users))
            assert (ranks <= 3).mean() == pytest.approx(result.test["hit@3"], abs=1e-4)


@pytest.mark.usefixtures("ring")
def test_groups_of_recboles_own_datasets_are_those_of_the_same_filters() -> None:
    narm, _ = run("NARM", user_inter_num_interval="[8,inf)")
    packed, _ = run("SASRecPacked", user_inter_num_interval="[8,inf)")
    users = [[group["users"] for group in result.groups["popularity"].values()] for result in (narm, packed)]
    assert users[0] == users[1]
    assert sum(users[0]) < 90


@pytest.mark.parametrize(
    ("model", "args", "message"),
    [
        ("NARM", eval_args({"RS": [0.8, 0.1, 0.1]}, order="RO"), "has to be 'TO'"),
        ("NARM", eval_args({"LS": "nobody"}), "leave_one_mode"),
    ],
)
@pytest.mark.usefixtures("ring")
def test_what_recbole_refuses_is_said_before_training(model: str, args: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(model, eval_args=args)


@pytest.mark.usefixtures("ring")
def test_more_cut_offs_than_items_are_refused_before_training(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "fit", lambda *_, **__: pytest.fail("it was trained"))
    uni = "--eval_args={split: {LS: valid_and_test}, order: TO, mode: uni20}"
    assert run_cli(train_command, ["--dataset", "ring", "--use_gpu=False", uni]) == 1  # topk: [10, 50]
    assert capsys.readouterr().err == "error: topk 50 is more than the 24 items of ring; lower topk\n"


@pytest.mark.usefixtures("ring")
def test_cut_offs_beyond_the_drawn_items_are_said() -> None:
    result, said = run("UniSRec", eval_args=eval_args({"LS": "valid_and_test"}, mode="uni4"))
    assert result.test["hit@5"] == 1
    assert any("uni4 ranks the next item among 5" in line for line in said)


@pytest.mark.usefixtures("ring")
def test_without_validation_the_last_epoch_counts() -> None:
    result, said = run("UniSRec", eval_step=0)
    assert not any("valid NDCG@3" in line for line in said)
    assert (result.best_epoch, len(result.epochs)) == (1, 2)
    assert set(result.test) == set(result.valid)


# --- what may go wrong


@pytest.fixture
def small_files() -> Iterator[None]:
    """Files of more than 8 kB cannot be written, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("model", ["UniSRec", "SASRec"])
@pytest.mark.usefixtures("ring", "small_files")
def test_a_full_disk_is_one_sentence_and_leaves_no_torn_checkpoint(model: str) -> None:
    with pytest.raises(UserError, match=r"(could not|cannot) write .*; free some space"):
        run(model)
    assert not [file for file in Path("saved").iterdir() if file.suffix in (".pth", ".tmp")]


@pytest.mark.usefixtures("ring")
def test_a_log_that_cannot_be_written_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    config = build_config("UniSRec", "ring", [], {"show_progress": False})
    quick_start.start_logging(config, verbose=False)
    (handler,) = [h for h in logging.getLogger().handlers if isinstance(h, logging.FileHandler)]
    handler.stream.close()
    handler.stream = Path("/dev/full").open("w")  # noqa: SIM115 - the handler closes it
    for _ in range(3):
        logging.getLogger().info("an epoch")
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert printed.startswith(f"note: cannot write the log {handler.baseFilename} (No space left on device)")
    logging.getLogger().removeHandler(handler)


@pytest.mark.parametrize("model", ["SASRec", "NARM"])
@pytest.mark.usefixtures("ring")
def test_a_loss_that_is_no_number_is_one_sentence(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cls = quick_start.model_class(model)
    monkeypatch.setattr(cls, "calculate_loss", lambda self, batch: torch.tensor(float("nan"), requires_grad=True))
    with pytest.raises(UserError, match="the loss is not finite; lower learning_rate"):
        run(model)


@pytest.mark.usefixtures("ring")
@pytest.mark.parametrize("size", [0, 1, 10, 1000, 20_000, -10])
def test_a_torn_checkpoint_is_named(size: int, capsys: pytest.CaptureFixture[str]) -> None:
    result, _ = run("UniSRec", hidden_size=64, epochs=1)
    whole = Path(result.checkpoint).read_bytes()
    assert len(whole) > 20_000
    Path("torn.pth").write_bytes(whole[:size])
    assert run_cli(train_command, ["--dataset", "ring", "--use_gpu=False", "--pretrained", "torn.pth"]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert "torn.pth" in error


@pytest.mark.usefixtures("ring")
def test_a_folder_that_cannot_be_written_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    Path("taken").write_text("a file")
    for out in ("taken", "taken/board", "/proc/board"):
        arguments = ["--leaderboard", "--dataset", "ring", "--models", "Pop", "--topk=[3,5]", "--out", out]
        assert run_cli(train_command, arguments) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: cannot write")
        assert error.count("\n") == 1
        assert out in error
