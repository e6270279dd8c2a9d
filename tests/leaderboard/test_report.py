"""The report of a small run on real data, with every row that needs no other package; left in build/leaderboard.

MovieLens-100k as RecBole brings it along: the last ratings of some users. For text features, bags of words.
"""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import polars as pl
import pytest

from dataset_tools.common import run_cli
from dataset_tools.movielens import prepare_ml100k
from recbole_unisrec.cli import train_command
from recbole_unisrec.evaluation import read_ranks
from recbole_unisrec.leaderboard.published import published

BUILD = Path(__file__).resolve().parents[2] / "build" / "leaderboard"
ROWS = ["Pop", "SASRec", "GRU4Rec", "BERT4Rec", "FDSA", "S3Rec", "SASRec-text", "ZESRec", "UniSRec-inductive",
        "UniSRec-transductive", "UniSRec-inductive-one-expert"]  # fmt: skip
NETWORK = ["--hidden_size=16", "--inner_size=16", "--embedding_size=16", "--n_exps=2", "--MAX_ITEM_LIST_LENGTH=10"]
SMALL = [*NETWORK, "--epochs=2", "--pretrain_epochs=1", "--learning_rate=0.003", "--use_gpu=False"]
N_USERS, N_LAST, WIDTH = 80, 8, 32
METRICS = ["hit@10", "ndcg@10", "hit@50", "ndcg@50"]


def write_sample(folder: Path, name: str, split: bool) -> None:
    """The last ratings of the first users, in either layout, with features for its items."""
    whole = prepare_ml100k(folder / "whole")
    inter = pl.read_csv(
        whole / "ml-100k.inter",
        separator="\t",
        schema_overrides={"user_id:token": pl.String, "item_id:token": pl.String},
    )
    users = inter["user_id:token"].unique(maintain_order=True)[:N_USERS]
    rows = (
        inter.filter(pl.col("user_id:token").is_in(users.implode()))
        .group_by("user_id:token", maintain_order=True)
        .tail(N_LAST)
    )
    items = rows["item_id:token"].unique(maintain_order=True).to_list()
    texts = dict(
        pl.read_csv(
            whole / "ml-100k.item", separator="\t", quote_char=None, schema_overrides={"item_id:token": pl.String}
        )
        .select("item_id:token", "text:token_seq")
        .iter_rows()
    )
    rng, words = np.random.default_rng(0), {}
    for item in items:
        for word in texts[item].split():
            words.setdefault(word, rng.standard_normal(WIDTH))
    features = np.array([np.mean([words[word] for word in texts[item].split()], axis=0) for item in items], np.float32)
    target = folder / name
    target.mkdir()
    features.tofile(target / f"{name}.feat1CLS")
    (target / f"{name}.feat1CLS.json").write_text(
        json.dumps({"encoder": "bag of words", "width": WIDTH, "dtype": "float32"})
    )
    if not split:
        rows.select("user_id:token", "item_id:token", "timestamp:float").write_csv(
            target / f"{name}.inter", separator="\t"
        )
        (target / f"{name}.item2index").write_text("".join(f"{item}\t{i}\n" for i, item in enumerate(items)))
        return
    number = {item: str(i) for i, item in enumerate(items)}
    parts: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    for (user,), mine in rows.group_by("user_id:token", maintain_order=True):
        sequence = [number[item] for item in mine["item_id:token"]]
        for i in range(1, len(sequence)):
            part = {len(sequence) - 1: "test", len(sequence) - 2: "valid"}.get(i, "train")
            parts[part].append(f"{user}\t{' '.join(sequence[:i])}\t{sequence[i]}\n")
    for part, lines in parts.items():
        head = "user_id:token\titem_id_list:token_seq\titem_id:token\n"
        (target / f"{name}.{part}.inter").write_text(head + "".join(lines))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A leaderboard of two seeds; its report stays in build/leaderboard."""
    work = tmp_path_factory.mktemp("board")
    shutil.rmtree(BUILD, ignore_errors=True)
    write_sample(work / "dataset", "sample", split=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        untuned = [row for row in ROWS if row != "UniSRec-inductive"]
        arguments = ["--leaderboard", "--dataset", "sample", "--seeds", "2", "--models", *ROWS, "--out", str(BUILD)]
        assert run_cli(train_command, [*arguments, "--no-tuning", *untuned, *SMALL]) == 0
    return BUILD


class Page(HTMLParser):
    """Tables of a page, as rows of (text, links)."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[tuple[str, list[str]]]]] = []
        self.cell: list[str] | None = None
        self.hrefs: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.cell, self.hrefs = [], []
        elif tag == "a":
            self.hrefs.append(unquote(dict(attrs)["href"] or ""))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            assert self.cell is not None
            self.tables[-1][-1].append(("".join(self.cell), self.hrefs))
            self.cell = None

    def handle_data(self, data: str) -> None:
        if self.cell is not None:
            self.cell.append(data)


def test_every_figure_is_in_the_json_that_it_links_to(folder: Path) -> None:
    main, against, *_ = Page((folder / "report.html").read_text()).tables
    assert [row[0][0] for row in main[1:]] == ROWS
    for row in main[1:]:
        for metric, (text, links) in zip(METRICS, row[1:5], strict=True):
            found = json.loads((folder / links[0]).read_text())["metrics"][metric]
            assert text == f"{found['mean']:.4f}" + (f" ± {found['std']:.4f}" if len(found["seeds"]) > 1 else "")
            assert found["mean"] == pytest.approx(np.mean(list(found["seeds"].values())))
        _, runs = row[[text for text, _ in main[0]].index("runs (by seed)")]
        assert len(runs) == (1 if row[0][0] == "Pop" else 2)
        for link in runs:
            run = json.loads((folder / link).read_text())
            summary = json.loads((folder / "rows" / f"{row[0][0]}.json").read_text())
            assert run["test"]["ndcg@10"] == summary["metrics"]["ndcg@10"]["seeds"][str(run["seed"])]
            users, ranks = read_ranks((folder / link).with_suffix(".npz"))
            assert float(np.mean(ranks <= 10)) == pytest.approx(run["test"]["hit@10"], abs=1e-6)
            assert len(users) == N_USERS
            assert sum(group["users"] for group in run["groups"]["length"].values()) == N_USERS
    assert [row[0][0] for row in against[1:]] == [row for row in ROWS if row != "SASRec"]
    for row in against[1:]:
        found = json.loads((folder / row[2][1][0]).read_text())["against SASRec"]["ndcg@10"]
        assert row[2][0].startswith(f"{found['relative']:+.1%}, p ")


@pytest.mark.parametrize(("name", "pattern"), [("report.html", r'<a href="([^"]*)"'), ("report.md", r"\]\(([^)]*)\)")])
def test_links_lead_to_files(folder: Path, name: str, pattern: str) -> None:
    links = re.findall(pattern, (folder / name).read_text())
    assert len(links) > 100
    for link in links:
        assert (folder / unquote(link)).is_file(), link


def test_the_page_needs_nothing_else(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    assert text.count("<svg") == 4
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"|rdf:resource="[^"]*"', "", text)
    for tag in ("<script", "<link", "<img", "@import", "url(http"):
        assert tag not in text


def test_the_best_and_the_second_are_marked(folder: Path) -> None:
    rows = {row: json.loads((folder / f"rows/{row}.json").read_text())["metrics"] for row in ROWS}
    lines = {
        line.split(" | ")[0].removeprefix("| "): line.split(" | ")
        for line in (folder / "report.md").read_text().splitlines()[6:20]
    }
    for i, metric in enumerate(METRICS, start=1):
        best, second, *rest = sorted(ROWS, key=lambda row: -rows[row][metric]["mean"])
        assert lines[best][i].startswith("[**")
        assert lines[second][i].startswith("[_")
        assert not any(lines[row][i].startswith(("[**", "[_")) for row in rest)


def test_ablations_tuning_and_groups_have_tables(folder: Path) -> None:
    text = (folder / "report.md").read_text()
    assert "Against UniSRec-inductive, tested as above" in text
    assert "## Tuning" in text
    runs = [json.loads(f.read_text()) for f in (folder / "runs/UniSRec-inductive").glob("*.json")]
    assert sorted(run["point"]["learning_rate"] for run in runs if run["seed"] == 2020) == [3e-4, 1e-3, 3e-3]
    tables = Page((folder / "report.html").read_text()).tables
    heads = [[text for text, _ in table[0]] for table in tables]
    assert any(re.fullmatch(r"1-4 \(\d+ users\)", text) for head in heads for text in head)
    assert f"5-9 ({N_USERS} users)" in [text for head in heads for text in head]  # histories of seven


def test_both_layouts_give_the_same_users_and_popularity(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sample(tmp_path / "dataset", "sample", split=True)
    monkeypatch.chdir(tmp_path)
    arguments = [
        "--leaderboard",
        "--dataset",
        "sample",
        "--seeds",
        "1",
        "--no-tuning",
        "--models",
        *ROWS,
        "--out",
        "split",
    ]
    assert (
        run_cli(train_command, [*arguments, *SMALL[:-4], "--epochs=1", "--pretrain_epochs=1", "--use_gpu=False"]) == 0
    )
    for row in ROWS:
        users = {
            tuple(read_ranks(file)[0])
            for where in (folder, tmp_path / "split")
            for file in (where / "runs" / row).glob("*.npz")
        }
        assert len(users) == 1
    (ours,), (split,) = ([*(where / "runs/Pop").glob("*.json")] for where in (folder, tmp_path / "split"))
    assert json.loads(ours.read_text())["groups"] == json.loads(split.read_text())["groups"]


def test_published_figures_belong_to_the_papers_data() -> None:
    assert published("Scientific", 8442, "SASRecPacked") == (0.1080, 0.0553, 0.2042, 0.0760)
    assert published("Office", 3231, "SASRec") is None  # another Office
    assert published("Scientific", 8442, "UniSRec-inductive-pretrained") == (0.1188, 0.0641, 0.2394, 0.0903)
    assert published("Scientific", 8442, "UniSRec-inductive-ours") is None
