"""Runs that are not run twice, choices on validation, folders shared by processes, mistakes in one sentence."""

import json
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from dataset_tools.common import run_cli
from recbole_unisrec import quick_start
from recbole_unisrec.cli import train_command
from recbole_unisrec.data.dataset import SequenceDataset
from recbole_unisrec.leaderboard import runner
from recbole_unisrec.leaderboard.live import Watch
from recbole_unisrec.leaderboard.rows import ROWS, rows_of
from recbole_unisrec.settings import build_config
from tests.conftest import SMALL as SMALL_MODEL

SMALL = ["--hidden_size=16", "--inner_size=16", "--epochs=2", "--use_gpu=False", "--topk=[10,20]"]


def board(*arguments: str) -> int:
    return run_cli(train_command, ["--leaderboard", "--dataset", "ring", *arguments, *SMALL])


@pytest.mark.usefixtures("ring")
def test_a_finished_run_is_not_run_again(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ["--models", "Pop", "SASRecPacked", "UniSRec-inductive", "--seeds", "2"]
    assert board(*rows, "--no-tuning") == 0
    folder = Path("leaderboard/ring")
    files = sorted((folder / "runs").rglob("*.json"))
    assert [f.parent.name for f in files] == ["Pop", *["SASRecPacked"] * 2, *["UniSRec-inductive"] * 2]
    before = {f: f.stat().st_mtime_ns for f in files}
    capsys.readouterr()
    files[-1].unlink()  # as if the last run had been killed
    assert board(*rows, "--no-tuning") == 0
    printed = capsys.readouterr().out
    assert printed.count("(from before)") == 4
    assert sum(f.stat().st_mtime_ns == before[f] for f in files) == 4
    assert [f.suffix for f in Path("leaderboard/ring/running").iterdir()] == [
        ".lock"
    ] * 5  # no checkpoint is left behind


@pytest.mark.usefixtures("ring")
def test_what_another_process_is_at_comes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {
        "hidden_size": 16,
        "inner_size": 16,
        "epochs": 1,
        "use_gpu": False,
        "topk": [10, 20],
        "show_progress": False,
    }
    shared = runner.Leaderboard(Path("shared"), "ring", rows_of(["SASRecPacked"]), 3, settings, [])
    row = shared.rows["SASRecPacked"]
    first = Path("shared/running") / f"SASRecPacked-{shared.keys.key(row, {}, 2020)}"
    (first / "left by a killed run").mkdir(parents=True)
    other = FileLock(f"{first}.lock")
    other.acquire()
    assert shared.run(row, {}, 2020, wait=False) == (None, False)
    said: list[str] = []

    class Recorder(Watch):
        def tell(self, line: str) -> None:
            if "epoch" not in line and "users" not in line:
                said.append(line)
            if "waiting" in line:
                other.release()

    runs = shared._all(row, [({}, 2020), ({}, 2021)], Recorder(shared, list))
    assert [run.seed for run in runs] == [2020, 2021]
    assert [line.split(": ")[0] for line in said] == [f"SASRecPacked, seed {seed}" for seed in (2021, 2020, 2020)]
    assert "waiting" in said[1]
    assert not first.exists()
    assert [run.seed for run in shared.finished(row, tuned=False).runs] == [2020, 2021]  # the third is missing


@pytest.mark.usefixtures("ring")
def test_report_only_trains_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert board("--report-only") == 1
    assert "no row is finished" in capsys.readouterr().err
    assert board("--models", "SASRecPacked", "--seeds", "2", "--no-tuning") == 0
    assert board("--models", "Pop", "--seeds", "2") == 0
    text = Path("leaderboard/ring/report.md").read_text()
    assert "| SASRecPacked |" in text  # what another command finished stands there too
    capsys.readouterr()
    assert board("--report-only", "--models", "UniSRec-inductive", "Pop", "--seeds", "2") == 0
    printed = capsys.readouterr().out
    assert "epoch" not in printed
    assert "| SASRecPacked |" not in Path("leaderboard/ring/report.md").read_text()
    assert not Path("leaderboard/ring/runs/UniSRec-inductive").exists()


@pytest.mark.usefixtures("ring")
def test_a_damaged_run_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert board("--models", "Pop") == 0
    (file,) = Path("leaderboard/ring/runs/Pop").glob("*.json")
    for damage in (b'{"row": ', b"[]", b'{"row": "Pop"}', b"\xff"):
        file.write_bytes(damage)
        assert board("--models", "Pop") == 1, damage
        assert f"{file} is damaged" in capsys.readouterr().err
    file.unlink()
    assert board("--models", "Pop") == 0
    (ranks,) = Path("leaderboard/ring/runs/Pop").glob("*.npz")
    ranks.write_bytes(ranks.read_bytes()[:100])
    assert board("--models", "Pop", "SASRecPacked", "--no-tuning", "--seeds", "1") == 1
    assert f"cannot read the ranks in {ranks}" in capsys.readouterr().err


@pytest.mark.usefixtures("ring")
def test_a_run_depends_on_its_settings_texts_and_checkpoint() -> None:
    def key(name: str, **settings: object) -> str:
        made = runner.Leaderboard(Path("keys"), "ring", rows_of([name]), 1, {"topk": [10, 20], **settings}, [])
        return made.keys.key(made.rows[name], {}, 2020)

    plain = key("UniSRec-inductive")
    assert plain == key("UniSRec-inductive", learning_rate=1e-3)  # the default
    assert plain == key("UniSRec-inductive", checkpoint_dir="elsewhere", show_progress=False)
    assert plain != key("UniSRec-inductive", learning_rate=3e-3)
    assert plain != key("UniSRec-inductive-ours")
    sasrec = key("SASRecPacked")
    features = Path("dataset/ring/ring.feat1CLS")
    features.write_bytes(features.read_bytes()[::-1])
    assert plain != key("UniSRec-inductive")
    assert sasrec == key("SASRecPacked")


def test_every_row_has_the_same_budget() -> None:
    assert {len(row.points()) for row in ROWS.values() if row.seeded} == {3}


@pytest.mark.usefixtures("ring")
def test_the_grid_is_chosen_on_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    assert board("--models", "SASRecPacked", "--seeds", "1") == 0
    runs = [json.loads(f.read_text()) for f in Path("leaderboard/ring/runs/SASRecPacked").glob("*.json")]
    assert sorted(run["point"]["learning_rate"] for run in runs) == [3e-4, 1e-3, 3e-3]
    best = max(runs, key=lambda run: run["valid_score"])
    report = Path("leaderboard/ring/report.md").read_text()
    assert f"[**learning_rate {best['point']['learning_rate']}: {best['valid_score']:.4f}**]" in report
    assert f"learning_rate {best['point']['learning_rate']} |" in report


@pytest.mark.usefixtures("ring")
def test_pretrained_rows_start_from_the_given_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    settings = {
        **SMALL_MODEL,
        "n_exps": 8,
        "MAX_ITEM_LIST_LENGTH": 50,
        "train_stage": "inductive_ft",
        "checkpoint_dir": "first",
    }
    source = quick_start.train(build_config("UniSRec", "ring", [], settings)).checkpoint
    capsys.readouterr()
    rows = [
        "--models",
        "UniSRec-inductive",
        "UniSRec-inductive-full",
        "--seeds",
        "1",
        "--no-tuning",
        "--pretrained",
        source,
    ]
    assert board(*rows) == 0
    assert capsys.readouterr().out.count(f"from {source}: loaded") == 1
    assert board(*rows) == 0
    assert capsys.readouterr().out.count("(from before)") == 2
    assert board("--models", "UniSRec-inductive-full", "--seeds", "1", "--no-tuning") == 1
    assert "give --pretrained=S-I+S-S=FILE" in capsys.readouterr().err


@pytest.mark.usefixtures("ring")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "UniSRec-inductiv"], "did you mean UniSRec-inductive"),
        (["--models", "SASRecPacked@a"], "only these rows take one"),
        (["--pretrained", "a=x", "a=y"], "--pretrained has a twice"),
        (["--pretrained", "a=nowhere.pth"], "nowhere.pth"),
        (["--seeds", "0"], "seeds must be 1 or more"),
        (["--models", "Pop", "SASRecPacked", "--learning_rat=1"], "did you mean learning_rate"),
        (["--models", "Pop", "--data_path=nowhere"], "is not there"),
        (["--seed=3"], "runs the seeds 2020, 2021, ...; say how many with --seeds"),
        (["--metrics=[MRR]"], "a leaderboard reports HIT and NDCG, and beside them"),
        (["--valid_metric=NDCG@20"], "a leaderboard chooses by NDCG@10 on validation"),
        (["--checkpoint_dir=here"], "keeps its runs in --out"),
        (["--eval_args={mode: uni100}"], "a leaderboard ranks all items for every row; drop mode uni100"),
        (
            ["--models", "SASRecPacked", "UniSRec-inductive", "--learning_rate=0.01"],
            "learning_rate is tuned (0.0003, 0.001, 0.003) for SASRecPacked, UniSRec-inductive, so 0.01 would not hold; "
            "give --no-tuning SASRecPacked UniSRec-inductive, or drop --learning_rate",
        ),
        (["--report-only", "--models", "SASRecPacked", "--learning_rate=0.01"], "learning_rate is tuned"),
        (
            ["--models", "UniSRec-inductive-no-whitening", "--whitening=True"],
            "row UniSRec-inductive-no-whitening is made by whitening=False, so True would not hold for it",
        ),
        (["--models", "UniSRec-inductive", "--topk=[0]"], "topk must be a list like [10, 50]"),
        (["--models", "UniSRec-inductive", "--n_exps=0"], "n_exps must be a whole number of 1 or more"),
    ],
)
def test_mistakes_are_one_sentence(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    small = [setting for setting in SMALL if not setting.startswith("--topk") or "--topk" not in arguments[-1]]
    assert run_cli(train_command, ["--leaderboard", "--dataset", "ring", *small, *arguments]) == 1
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.usefixtures("ring")
@pytest.mark.parametrize(
    ("setting", "users"),
    [("user_inter_num_interval=[8,inf)", None), ("item_inter_num_interval=[27,inf)", None), ("train_users=0.5", 90)],
)
def test_filters_of_the_data_reach_the_facts_and_every_row(setting: str, users: int | None) -> None:
    name, _, value = setting.partition("=")
    config = build_config("SASRecPacked", "ring", [], {name: float(value) if users else value})
    dataset = SequenceDataset(config)
    dataset.build()
    assert len(dataset.split.train) < 600  # of all
    rows = ["--models", "Pop", "SASRec", "UniSRec-inductive", "--no-tuning", "--seeds", "1"]
    assert board(*rows, f"--{setting}") == 0
    report = Path("leaderboard/ring/report.md").read_text()
    assert f"{dataset.user_num - 1} users" in report
    assert f"{len(dataset.split.train):,} training pairs" in report
    expected = sorted(dataset.field2id_token["user_id"][dataset.split.test.user])
    for file in Path("leaderboard/ring/runs").rglob("*.npz"):
        assert sorted(np.load(file)["user"].tolist()) == expected, file
    pop = json.loads(next(Path("leaderboard/ring/runs/Pop").glob("*.json")).read_text())
    assert pop["config"]["dataset"] == "ring"
    assert pop["config"][name] == (0.5 if users else value)
    counts = dataset.item_popularity()
    target = dataset.split.test.items[dataset.split.test.target]
    order = np.lexsort((np.arange(len(counts)), -counts.numpy()))
    rank = {item: place for place, item in enumerate(order[order != 0].tolist(), 1)}
    assert pop["test"]["hit@10"] == pytest.approx(np.mean([rank[item] <= 10 for item in target.tolist()]))


@pytest.mark.usefixtures("ring")
def test_rows_whose_settings_coincide_both_stand_in_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["UniSRec-inductive", "UniSRec-inductive-history"]
    assert board("--models", *rows, "--no-tuning", "--seeds", "2", "--history_bias=True") == 0
    assert f"{rows[0]} and {rows[1]} have the same settings here" in capsys.readouterr().out
    report = Path("leaderboard/ring/report.md").read_text()
    figures = [json.loads(Path(f"leaderboard/ring/rows/{row}.json").read_text())["metrics"] for row in rows]
    assert figures[0] == figures[1]
    for row in rows:
        assert f"| {row} |" in report
        assert len(list(Path(f"leaderboard/ring/runs/{row}").glob("*.json"))) == 2


@pytest.mark.usefixtures("ring")
def test_nothing_is_a_value_too_and_rows_that_go_without_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["UniSRec-inductive-ours", "SASRec"]
    assert board("--models", *rows, "--no-tuning", "--seeds", "1", "--ema_decay=~") == 0
    assert "ema_decay: SASRec goes without it" in capsys.readouterr().out
    (file,) = Path("leaderboard/ring/runs/UniSRec-inductive-ours").glob("*.json")
    config = json.loads(file.read_text())["config"]
    assert (config["ema_decay"], config["feature_scaling"]) == (None, "whiten")
