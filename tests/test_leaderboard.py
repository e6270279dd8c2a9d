"""The leaderboard: statistics against plain ones, runs that are not run twice, a report that says what was measured."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from scipy import stats as scipy_stats

from dataset_tools.common import run_cli
from recbole_unisrec import quick_start
from recbole_unisrec.cli import train_command
from recbole_unisrec.evaluation import group_metrics, group_names, read_ranks
from recbole_unisrec.leaderboard import runner
from recbole_unisrec.leaderboard.rows import rows_of
from recbole_unisrec.leaderboard.stats import compare, holm, per_user
from recbole_unisrec.settings import build_config
from tests.conftest import SMALL as SMALL_MODEL

SMALL = ["--hidden_size=16", "--inner_size=16", "--epochs=2", "--use_gpu=False", "--topk=[10,20]"]


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_comparison_is_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(200)
    better = base + 0.05 + 0.1 * rng.standard_normal(200)
    rows = {"SASRec": base, "better": better, "same": base.copy()}
    found = compare({name: {"hit": values, "ndcg": 2 * values} for name, values in rows.items()}, "SASRec")
    assert set(found) == {"better", "same"}
    assert found["better"]["hit"].p == pytest.approx(4 * scipy_stats.ttest_rel(better, base).pvalue)  # of four tests
    assert found["better"]["ndcg"].relative == pytest.approx(better.mean() / base.mean() - 1)
    assert found["same"]["ndcg"].p == 1.0


def test_per_user_is_the_mean_over_seeds() -> None:
    assert per_user(np.array([[1, 11], [3, 1]])) == pytest.approx([(1 + 0.5) / 2, 0.5])


def test_groups_by_hand() -> None:
    assert group_names((0, 1, 5)) == ["0", "1-4", "5+"]
    found = group_metrics(np.array([1, 20, 2, 99]), np.array([0, 0, 4, 7]), (0, 1, 5), ["hit"], [10])
    assert found == {
        "0": {"users": 2, "hit@10": 0.5}, "1-4": {"users": 1, "hit@10": 1.0}, "5+": {"users": 1, "hit@10": 0.0}
    }  # fmt: skip


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
    assert [f.suffix for f in Path("leaderboard/ring/running").iterdir()] == [".lock"] * 5  # no checkpoint is left behind


@pytest.mark.usefixtures("ring")
def test_what_another_process_is_at_comes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"hidden_size": 16, "inner_size": 16, "epochs": 1, "use_gpu": False, "topk": [10, 20], "show_progress": False}
    shared = runner.Leaderboard(Path("shared"), "ring", rows_of(["SASRecPacked"]), 3, settings, [])
    row = shared.rows["SASRecPacked"]
    first = Path("shared/running") / f"SASRecPacked-{shared._key(row, {}, 2020)}"
    (first / "left by a killed run").mkdir(parents=True)
    other = FileLock(f"{first}.lock")
    other.acquire()
    assert shared.run(row, {}, 2020, wait=False) == (None, False)
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if "waiting" in line:
            other.release()

    runs = shared._all(row, [({}, 2020), ({}, 2021)], say)
    assert [run.seed for run in runs] == [2020, 2021]
    assert [line.split(",")[0] for line in said] == [
        "SASRecPacked: seed 2021", "SASRecPacked: waiting for another process that is at seed 2020", "SASRecPacked: seed 2020"
    ]  # fmt: skip
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
@pytest.mark.parametrize("damage", [b'{"row": ', b"[]", b'{"row": "Pop"}', b"\xff"])
def test_a_damaged_run_is_named(capsys: pytest.CaptureFixture[str], damage: bytes) -> None:
    assert board("--models", "Pop") == 0
    (file,) = Path("leaderboard/ring/runs/Pop").glob("*.json")
    file.write_bytes(damage)
    assert board("--models", "Pop") == 1
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
        return made._key(made.rows[name], {}, 2020)

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


@pytest.mark.usefixtures("ring")
def test_the_report_says_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert board("--models", "Pop", "SASRec", "UniSRec-transductive", "--seeds", "2", "--no-tuning") == 0
    folder = Path("leaderboard/ring")
    page, text = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    runs = [json.loads(f.read_text()) for f in (folder / "runs/UniSRec-transductive").glob("*.json")]
    mean = np.mean([run["test"]["ndcg@10"] for run in runs])
    assert f"{mean:.4f} ±" in page
    assert f"{mean:.4f} ±" in text
    assert f"{mean:.4f} ±" in capsys.readouterr().out
    assert page.count("<svg") == 4
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"|<!DOCTYPE[^>]*>|rdf:resource="[^"]*"', "", page)  # needs no network
    for run in runs:
        assert (folder / f"runs/UniSRec-transductive/{run['key']}.json").is_file()
        assert f'href="runs/UniSRec-transductive/{run["key"]}.json"' in page
        users, ranks = read_ranks(folder / f"runs/UniSRec-transductive/{run['key']}.npz")
        assert float(np.mean(ranks <= 10)) == pytest.approx(run["test"]["hit@10"], abs=1e-6)
        assert list(users) == sorted(users)


@pytest.mark.usefixtures("ring")
def test_the_grid_is_chosen_on_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    assert board("--models", "SASRecPacked", "--seeds", "1") == 0
    runs = [json.loads(f.read_text()) for f in Path("leaderboard/ring/runs/SASRecPacked").glob("*.json")]
    assert sorted(run["point"]["learning_rate"] for run in runs) == [3e-4, 1e-3, 3e-3]
    best = max(runs, key=lambda run: run["valid_score"])
    assert f"learning_rate {best['point']['learning_rate']}" in Path("leaderboard/ring/report.md").read_text()


@pytest.mark.usefixtures("ring")
def test_pretrained_rows_start_from_the_given_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    settings = {**SMALL_MODEL, "n_exps": 8, "MAX_ITEM_LIST_LENGTH": 50, "train_stage": "inductive_ft", "checkpoint_dir": "first"}
    source = quick_start.train(build_config("UniSRec", "ring", [], settings)).checkpoint
    capsys.readouterr()
    rows = ["--models", "UniSRec-inductive", "UniSRec-inductive-full", "--seeds", "1", "--no-tuning", "--pretrained", source]
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
    ],
)
def test_mistakes_are_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert board(*arguments) == 1
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
