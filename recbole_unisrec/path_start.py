"""Where the text's own path starts: what nearest texts do best with on validation, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable

from recbole_unisrec.model.text_path import DECAY, POPULARITY

# one after the other, the usual value first: a tie stays with it
TRIED = {
    "text_path_popularity": (POPULARITY, 0.0, 0.02, 0.05, 0.2),
    "text_path_decay": (DECAY, 0.5, 0.85),
}
MOST_PAIRS = 10_000  # validation items that are ranked for it


def choose_start(given: dict[str, float | None], score: Callable[[dict[str, float]], float]) -> dict[str, float]:
    """The values of `TRIED` with the best score, one setting after the other.

    Parameters
    ----------
    given
        Values by the names of `TRIED` that somebody has set; None is to be chosen.
    score
        Of a start; higher is better.

    Returns
    -------
    dict
        A value for each name of `TRIED`.
    """
    point = {name: values[0] for name, values in TRIED.items()}
    point |= {name: value for name, value in given.items() if value is not None}
    found: dict[tuple[float, ...], float] = {}
    for name, values in TRIED.items():
        if given[name] is not None:
            continue
        points = [point | {name: value} for value in values]
        for tried in points:
            key = tuple(tried.values())
            found[key] = found[key] if key in found else score(tried)
        point = max(points, key=lambda tried: found[tuple(tried.values())])
    return point
