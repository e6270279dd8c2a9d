"""The rows of a leaderboard."""

from recbole_unisrec.leaderboard.rows import ROWS, STAGES


def test_colours_tell_rivals_from_the_paper_and_from_ours() -> None:
    kinds = {name: row.kind for name, row in ROWS.items()}
    assert kinds["Pop"] == "no training"
    assert {kinds[name] for name in ("SASRec", "SASRecPacked", "SASRec-ours", "ZESRec", "ZESRec-ours", "FDSA")} == {
        "rival"
    }
    assert {kinds[f"UniSRec-{form}{end}"] for form in STAGES for end in ("", "-pretrained", "-one-expert")} == {
        "the paper's UniSRec"
    }
    assert {kinds[f"UniSRec-{form}{end}"] for form in STAGES for end in ("-ours", "-ours-pretrained", "-ours-LSA")} == {
        "ours"
    }
