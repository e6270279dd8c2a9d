"""Settings for all rows: what a row would pass over is refused, what it has no use for is said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole_unisrec.beyond import BEYOND
from recbole_unisrec.errors import UserError
from recbole_unisrec.leaderboard.rows import Row
from recbole_unisrec.leaderboard.runs import FIRST_SEED, METRICS
from recbole_unisrec.setting_parts import shown
from recbole_unisrec.setting_table import TABLE

# what RecTools' model reads of the settings (see `rectools.train`)
OF_RECTOOLS = {
    "hidden_size", "n_layers", "n_heads", "learning_rate", "train_batch_size", "epochs", "stopping_step", "plm_suffix",
    *(s.name for part in ("Data", "Evaluation", "Where and how it runs") for s in TABLE[part]),
}  # fmt: skip


def refuse_ignored(rows: Mapping[str, Row], tuned: list[str], given: Mapping[str, Any], score: str) -> None:
    """Raise `UserError` if a setting for all rows would not hold for one of these rows.

    Parameters
    ----------
    rows
        The rows that are to run.
    tuned
        Names of those whose grids are tried.
    given
        Settings for all rows.
    score
        The metric that chooses on validation, ``ndcg@10``.
    """
    if "seed" in given:
        raise UserError(
            f"a leaderboard runs the seeds {FIRST_SEED}, {FIRST_SEED + 1}, ...; say how many with --seeds, and drop --seed"
        )
    if "checkpoint_dir" in given:
        raise UserError("a leaderboard keeps its runs in --out FOLDER; drop --checkpoint_dir")
    if "metrics" in given:
        wanted = given["metrics"]
        wanted = [wanted] if isinstance(wanted, str) else wanted
        for metric in [str(m) for m in wanted if str(m).lower() not in (*METRICS, *BEYOND)]:
            raise UserError(
                f"a leaderboard reports {' and '.join(m.upper() for m in METRICS)}, and beside them, with --metrics, any of "
                f"{', '.join(BEYOND)}; leave {metric} out"
            )
    if "valid_metric" in given and str(given["valid_metric"]).lower() != score:
        raise UserError(
            f"a leaderboard chooses by {score.upper()} on validation, the first of --topk; drop --valid_metric"
        )
    trained = sum(bool(row.model) for row in rows.values())
    for setting, names in tuning(rows, tuned, given).items():
        if len(names) == trained:
            values = ", ".join(f"{value:g}" for value in rows[names[0]].grid[setting])
            raise UserError(
                f"{setting} is tuned ({values}) for {', '.join(names)}, so {shown(given[setting])} would not hold; "
                f"give --no-tuning {' '.join(names)}, or drop --{setting}"
            )
    for setting, kept in keeping(rows, given).items():
        if len(kept) == trained:
            first, value = next(iter(kept.items()))
            raise UserError(
                f"row {first} is made by {setting}={shown(value)}, so {shown(given[setting])} would not hold for it; "
                f"drop --{setting}, or take another row"
            )


def tuning(rows: Mapping[str, Row], tuned: list[str], given: Mapping[str, Any]) -> dict[str, list[str]]:
    """By setting: the rows that try values of their own in its place."""
    found = {setting: [name for name in tuned if name in rows and setting in rows[name].grid] for setting in given}
    return {setting: names for setting, names in found.items() if names}


def keeping(rows: Mapping[str, Row], given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By setting: the rows that are made by another value than was given, and that value."""
    return {
        setting: kept
        for setting in given
        if (
            kept := {
                name: row.settings[setting]
                for name, row in rows.items()
                if setting in row.settings and row.settings[setting] != given[setting]
            }
        )
    }


def check_mode(eval_args: Any) -> None:
    """Raise `UserError` if not all items are to be ranked: rows are compared user by user, by the rank of the next item."""
    mode = eval_args.get("mode", "full") if isinstance(eval_args, Mapping) else "full"
    for value in mode.values() if isinstance(mode, Mapping) else [mode]:
        if value != "full":
            raise UserError(f"a leaderboard ranks all items for every row; drop mode {value} from eval_args")


def without(
    known: Mapping[str, set[str]], rows: Mapping[str, Row], tuned: list[str], given: Mapping[str, Any]
) -> list[str]:
    """One line for each setting that some rows go without, tune, or keep their own value of.

    Parameters
    ----------
    known
        The settings that each row's model has, by row.
    rows, tuned, given
        As in `refuse_ignored`.
    """
    lines = []
    for setting in given:
        mine = [name for name, names in known.items() if setting not in names]
        if mine and len(mine) < len(known):
            lines.append(f"{setting}: {', '.join(mine)} go{'es' if len(mine) == 1 else ''} without it")
    for setting, names in tuning(rows, tuned, given).items():
        lines.append(f"{setting}: {', '.join(names)} tune{'s' if len(names) == 1 else ''} it instead")
    for setting, kept in keeping(rows, given).items():
        lines += [f"{setting}: {row} keeps {shown(value)}, which makes the row" for row, value in kept.items()]
    return lines


def coinciding(keys: Mapping[str, str]) -> list[str]:
    """One line for each set of rows that have the same settings."""
    rows: dict[str, list[str]] = {}
    for name, key in keys.items():
        rows.setdefault(key, []).append(name)
    return [
        f"{' and '.join(names)} have the same settings here, so their figures will be the same"
        for names in rows.values()
        if len(names) > 1
    ]
