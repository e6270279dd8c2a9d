"""What a report says in sentences: of metrics, of the split, of the cold-start protocol."""

from __future__ import annotations

from recbole_unisrec.leaderboard.runner import Leaderboard

BEYOND_TEXT = (
    "Of what the test users are shown. ItemCoverage: share of the items that anybody is shown. GiniIndex: 0 where all items "
    "are shown as often, 1 where one item is shown to all. ShannonEntropy: RecBole's, divided by the number of items shown. "
    "AveragePopularity: training pairs of the items shown. TailPercentage: share of the items shown that are of the tail."
)


def split_text(board: Leaderboard) -> str:
    """How the pairs were split, in words."""
    args = board.overrides.get("eval_args") or {}
    if board.overrides.get("benchmark_filename"):
        return "Split as the files are"
    ((kind, value),) = args.get("split", {"LS": "valid_and_test"}).items()
    if kind == "LS":
        return "Leave-one-out" if value == "valid_and_test" else f"Leave-one-out ({value})"
    if kind == "TIME":
        return f"Split by time: validation from {value[0]}, test from {value[1]}"
    return f"Split {kind} {value}"


def cold_text(board: Leaderboard) -> str:
    """What the cold-start protocol did, and what it means for models that know items by their IDs."""
    share, by = board.overrides["cold_items"], board.overrides.get("cold_by", "random")
    which = "the newest" if by == "time" else "drawn at random, the same for every row and seed"
    return (
        f"Cold start: {share:.0%} of the items ({which}) were taken out of training, and out of validation as items to "
        "find; test users keep them, and group 0 below holds those who must find one. Models that know items by "
        "their IDs rank them too, by embeddings that were never the item to find; Pop ranks them last."
    )
