"""What one run gave: the layout of the JSON beside a checkpoint, and the table of several runs for the console."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Result:
    """What one run gave; also the layout of the JSON file beside the checkpoint.

    Attributes
    ----------
    valid, test
        Metrics by name (``ndcg@10``), of the best epoch on the validation part; empty where a split has no such part.
    epochs
        One entry an epoch: number, mean loss of a step, validation score, seconds of training and of evaluation.
    seconds
        Wall time of training and evaluation together.
    groups
        Test metrics by ``popularity`` (training interactions of the target item) and ``length`` (of the history).
    ranks
        File with the rank of each item to find of the test part (see `evaluation.read_ranks`).
    data
        Checksum of what was learned from, of models on our data path (`unfinished.fingerprint`).
    refit
        Of a last fit on all the data: the run that its figures are of, and its epochs; see `refit.refit`.
    path_start
        Where validation let the text's own path start, by setting (`path_start.choose_start`); None without a choice.
    """

    model: str
    dataset: str
    train_stage: str | None
    seed: int
    valid: dict[str, float]
    test: dict[str, float]
    epochs: list[dict[str, float]]
    best_epoch: int
    seconds: float
    groups: dict[str, dict[str, dict[str, float]]]
    checkpoint: str
    ranks: str
    n_parameters: int
    versions: dict[str, str]
    config: dict[str, Any] = field(repr=False)
    data: str = ""
    refit: dict[str, Any] | None = None
    path_start: dict[str, float] | None = None

    @property
    def label(self) -> str:
        """Name of the row in a table."""
        short = {"inductive_ft": "inductive", "transductive_ft": "transductive"}
        return f"{self.model} {short[self.train_stage]}" if self.train_stage in short else self.model


def table(results: list[Result]) -> str:
    """Metrics of runs as an aligned text table, validation and test one under the other."""
    names = list(dict.fromkeys(name for r in results for part in (r.test, r.valid) for name in part))
    width = max(len(r.label) for r in results)
    lines = [f"{'':{width}}  part   " + "  ".join(f"{n.upper():>8}" for n in names) + "   epochs  seconds"]
    for r in results:
        for part, values in (("valid", r.valid), ("test", r.test)):
            cells = "  ".join(f"{values[n]:8.4f}" if n in values else f"{'–':>8}" for n in names)
            end = f"   {len(r.epochs):6}  {r.seconds:7.0f}" if part == "test" else ""
            lines.append(f"{r.label if part == 'valid' else '':{width}}  {part:5}  {cells}{end}")
    return "\n".join(lines)
