"""Tables and figures of pages come from stored runs; the docs' own are up to date."""

from pathlib import Path

import pytest

from dataset_tools.common import run_cli
from recbole_unisrec.leaderboard import pages, stored, tables
from tests.leaderboard.test_tables import store

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """A page with a table and three figures, and the runs of two datasets."""
    for name in ("A", "B"):
        for row, rank in (("Pop", 30), ("SASRecPacked", 5), ("UniSRec-inductive-ours", 1)):
            store(tmp_path / "boards" / name, row, row, 2020, rank, dataset=name)
    store(tmp_path / "boards/A", "SASRecPacked", "few", 2020, 9, dataset="A", train_users=0.01)
    assert (
        run_cli(
            tables.main, [str(tmp_path / "boards/A"), str(tmp_path / "boards/B"), "--pack", str(tmp_path / "docs/runs")]
        )
        == 0
    )
    (tmp_path / "docs/page.md").write_text("""# Results

<!-- board table runs/A.runs.zip Pop SASRecPacked --against Pop -->
stale
<!-- /board -->

Words stay.

```text
<!-- board table runs/nowhere.runs.zip -->
<!-- /board -->
```

<!-- board figure figures/cost.svg cost runs/A.runs.zip SASRecPacked UniSRec-inductive-ours -->
<!-- /board -->
<!-- board figure figures/new.svg new-items runs/A.runs.zip -->
<!-- /board -->
<!-- board figure figures/shares.svg summary-shares runs/*.runs.zip --against SASRecPacked -->
<!-- /board -->
""")
    return tmp_path / "docs"


def test_tables_and_figures_are_made_again(docs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = docs / "page.md"
    assert run_cli(pages.main, [str(docs), "--check"]) == 1
    assert "page.md is not what the stored runs say" in capsys.readouterr().err
    assert not (docs / "figures").exists()
    assert run_cli(pages.main, [str(docs)]) == 0
    text = page.read_text()
    assert "stale" not in text
    assert "Words stay." in text
    expected = tables.table(stored.read_boards([docs / "runs/A.runs.zip"]), ["Pop", "SASRecPacked"], "Pop")
    unbroken = "\N{NO-BREAK SPACE}"
    assert f"-->\n\n{expected}\n\n<!-- /board -->" in text.replace(unbroken, " ")
    assert f"%,{unbroken}p{unbroken}<{unbroken}.001{unbroken}/ +" in text  # a change and its p stay on one line
    for name in ("cost", "new", "shares"):
        assert (docs / f"figures/{name}.svg").read_text().startswith("<svg")
        assert f"](figures/{name}.svg)" in text
    assert run_cli(pages.main, [str(docs)]) == 0  # nothing changes any more
    assert page.read_text() == text
    assert run_cli(pages.main, [str(docs), "--check"]) == 0
    page.write_text(text.replace("| SASRecPacked | 0.5", "| SASRecPacked | 0.6"))
    assert run_cli(pages.main, [str(page), "--check"]) == 1


@pytest.mark.parametrize(
    ("comment", "message"),
    [
        ("<!-- board table runs/C.runs.zip -->\n<!-- /board -->", "C.runs.zip has no finished run"),
        (
            "<!-- board table runs/A.runs.zip ours -->\n<!-- /board -->",
            "A has no finished run of ours; its rows are Pop",
        ),
        ("<!-- board table runs/A.runs.zip --share=0.5 -->\n<!-- /board -->", "no run is of a share of 0.5"),
        ("<!-- board figure a.svg pie runs/A.runs.zip -->\n<!-- /board -->", "invalid choice: 'pie'"),
        ("<!-- board figure a.svg cost runs/A.runs.zip ours -->\n<!-- /board -->", "no finished run of ours"),
        ("<!-- board figure a.svg summary-shares runs/B.runs.zip -->\n<!-- /board -->", "no runs learned from a share"),
        ("<!-- board table runs/A.runs.zip -->", "has no `<!-- /board -->` after it"),
    ],
)
def test_mistakes_name_the_page(docs: Path, capsys: pytest.CaptureFixture[str], comment: str, message: str) -> None:
    page = docs / "wrong.md"
    page.write_text(comment + "\n")
    assert run_cli(pages.main, [str(page)]) == 1
    said = capsys.readouterr().err
    assert str(page) in said
    assert message in said
    assert page.read_text() == comment + "\n"


def test_the_docs_say_what_the_stored_runs_say() -> None:
    assert run_cli(pages.main, [str(DOCS), "--check"]) == 0
