"""Whether settings are right, before anything is read or trained: each by its line of the table, and some together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole_unisrec.errors import UserError
from recbole_unisrec.registry import PACKED
from recbole_unisrec.setting_parts import IN_PROPS, Setting
from recbole_unisrec.setting_table import AT_NO_K, SETTINGS, LossSettings


def find(name: str, model: str) -> Setting | None:
    """The line of a setting as a model understands it; None if the table has none."""
    return next((setting for setting in SETTINGS.get(name, []) if setting.is_of(model)), None)


def check(name: str, value: Any, model: str, where: str = "") -> None:
    """Check the value of one setting; a setting that is not in the table passes.

    Parameters
    ----------
    name, value, model
        What is set, for which model.
    where
        The file that says so, for the sentence.

    Raises
    ------
    UserError
        If the value is not of the setting's kind.
    """
    line = find(name, model)
    if line is not None:
        line.check(value, where)


def check_all(model: str, settings: Mapping[str, Any]) -> None:
    """Check every setting of a configuration, and what two of them must agree on.

    Raises
    ------
    UserError
        At the first that does not fit.
    """
    for name, value in settings.items():
        check(name, value, model)
    check_together(settings)
    if model in PACKED:
        check_loss(settings)
        check_item_optimizer(settings)
        check_features_on(settings)


def check_together(settings: Mapping[str, Any]) -> None:
    """Raise `UserError` if two settings do not agree."""
    check_heads(settings)
    check_valid_metric(settings)


def check_heads(settings: Mapping[str, Any]) -> None:
    """Raise `UserError` if the heads do not divide the width."""
    width, heads = settings.get("hidden_size"), settings.get("n_heads")
    if isinstance(width, int) and isinstance(heads, int) and width % heads:
        raise UserError(f"hidden_size {width} is not a multiple of n_heads {heads}; change one of them")


def check_valid_metric(settings: Mapping[str, Any]) -> None:
    """Raise `UserError` if the metric that chooses the epoch is not among those that are measured."""
    metrics, topk, wanted = (settings.get(name) for name in ("metrics", "topk", "valid_metric"))
    if metrics is None or topk is None or wanted is None:
        return
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    cuts = [topk] if isinstance(topk, int) else list(topk)
    found = [name if name.lower() in AT_NO_K else f"{name}@{k}" for name in names for k in cuts]
    if str(wanted).lower() not in [name.lower() for name in found]:
        raise UserError(
            f"valid_metric {wanted} is not among what metrics and topk measure ({', '.join(dict.fromkeys(found))}); "
            "choose one of these, or add it"
        )


def check_loss(settings: Mapping[str, Any]) -> None:
    """Raise `UserError` if a loss over a sample of the items does not go with the rest."""
    loss = LossSettings.from_config(settings)
    if loss.loss != "full" and settings.get("train_mode") == "prefix":
        raise UserError(f"loss {loss.loss} goes with train_mode packed, not prefix; leave train_mode out")
    if loss.loss == "gbce" and loss.negatives != "uniform":
        raise UserError(f"gBCE is derived for uniform negatives, not for {loss.negatives}; leave negatives out")


def check_item_optimizer(settings: Mapping[str, Any]) -> None:
    """Raise `UserError` if ``item_optimizer: rows`` does not go with the rest."""
    if settings.get("item_optimizer") != "rows":
        return
    if LossSettings.from_config(settings).loss == "full":
        raise UserError(
            "the full softmax moves all items at every step; item_optimizer=rows goes with loss=sampled or gbce"
        )
    if settings.get("ema_decay"):
        raise UserError("ema_decay averages all rows at every step; leave it out, or set item_optimizer=adam")
    learner = settings.get("learner") or "adam"
    if str(learner).lower() not in ("adam", "adamw"):
        raise UserError(f"item_optimizer=rows goes with learner adam, not {learner}")


def check_features_on(settings: Mapping[str, Any]) -> None:
    """Raise `UserError` if ``features_on: disk`` does not go with the rest."""
    if settings.get("features_on") != "disk":
        return
    if LossSettings.from_config(settings).loss == "full":
        raise UserError(
            "the full softmax needs all text features at every step; features_on=disk goes with loss=sampled or gbce"
        )
    if (settings.get("feature_precision") or "fp32") != "fp32":
        raise UserError("features_on=disk takes the file as it is; leave feature_precision out")
    if settings.get("text_path"):
        raise UserError("text_path compares the texts of all items; leave it or features_on=disk out")


def defaults_of(model: str) -> dict[str, Any]:
    """Defaults that stand in the table, of the settings that a model takes."""
    return {
        setting.name: setting.default
        for settings in SETTINGS.values()
        for setting in settings
        if setting.default is not IN_PROPS and setting.is_of(model)
    }
