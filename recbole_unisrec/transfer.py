"""Start from a pre-trained model: copy what fits, say what is new, freeze what should stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from recbole_unisrec.errors import UserError
from recbole_unisrec.setting_table import TextSettings, TrainingSettings, TransferSettings

# names under which parameters are known; the authors' "fixed encoder" leaves the input LayerNorm to learn, ours does not
PARTS: dict[str, tuple[str, ...]] = {
    "encoder": ("position_embedding.", "trm_encoder.", "LayerNorm."),
    "adaptor": ("moe_adaptor.",),
}
FREEZE = ("encoder", "none", "adaptor")
NAMED = 3  # differing parameters that an error names


@dataclass(frozen=True)
class Transfer:
    """What `apply_pretrained` did.

    Attributes
    ----------
    source
        The file.
    loaded, new, unused
        Names of parameters that came from the file, that the model has alone, and that the file has alone.
    frozen
        Names of parameters that do not learn.
    n_trained
        Number of values that learn.
    adaptor_share
        How much of the adaptor is from the file (1: all); the rest are the new model's own weights.
    """

    source: str
    loaded: tuple[str, ...]
    new: tuple[str, ...]
    unused: tuple[str, ...]
    frozen: tuple[str, ...]
    n_trained: int
    adaptor_share: float = 1.0

    def __str__(self) -> str:
        def parts(names: tuple[str, ...]) -> str:
            return ", ".join(sorted({name.split(".")[0] for name in names})) or "nothing"

        share = self.adaptor_share
        mixed = f"the adaptor is {share:g} of the file's weights and {1 - share:g} of new ones; " if share < 1 else ""
        return (
            f"from {self.source}: loaded {parts(self.loaded)} ({len(self.loaded)} tensors); {mixed}new: {parts(self.new)}; "
            f"frozen: {parts(self.frozen)}; {self.n_trained:,} trained parameters"
        )


def freeze(model: nn.Module, what: str) -> tuple[str, ...]:
    """Stop the learning of one part (``encoder``, ``adaptor``) or of ``none``; gives the names of the frozen parameters.

    Raises
    ------
    UserError
        If `what` is unknown, or nothing would learn any more.
    """
    if what not in FREEZE:
        raise UserError(f"unknown freeze {what!r}; choose one of {', '.join(FREEZE)}")
    prefixes = PARTS.get(what, ())
    frozen = [name for name, _ in model.named_parameters() if name.startswith(prefixes)] if prefixes else []
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    return tuple(frozen)


def copy_weights(
    model: nn.Module, state: dict[str, Tensor], source: str, adaptor_share: float = 1.0
) -> tuple[list[str], list[str], list[str]]:
    """Copy the tensors of the same name; gives the names loaded, new and unused.

    The adaptor becomes adaptor_share · (that of `state`) + (1 - adaptor_share) · (what it is now).

    Raises
    ------
    UserError
        If a tensor of the same name has another shape, or nothing fits; the first that differ are named.
    """
    own = model.state_dict()
    id_tables = {"item_embedding.weight"}  # of the items of another dataset
    usable = {name: tensor for name, tensor in state.items() if name in own and name not in id_tables}
    wrong = [
        f"{name} is {list(tensor.shape)} there and {list(own[name].shape)} here"
        for name, tensor in usable.items()
        if tensor.shape != own[name].shape
    ]
    if wrong:
        raise UserError(
            f"{source} is of another architecture: {'; '.join(wrong[:NAMED])}; use the settings (hidden_size, n_layers, "
            "n_exps, MAX_ITEM_LIST_LENGTH) and text features (plm_suffix) that it was trained with"
        )
    missing = [name for name in own if name.startswith(PARTS["encoder"]) and name not in usable]
    if missing or not usable:
        raise UserError(
            f"{source} lacks {', '.join(missing[:NAMED]) or 'every parameter of this model'}; it has "
            f"{', '.join(list(state)[:NAMED]) or 'none'}; is it a checkpoint of this model?"
        )
    with torch.no_grad():
        for name, tensor in usable.items():
            # the tensors of state_dict share memory with the model's
            if adaptor_share < 1 and name.startswith(PARTS["adaptor"]):
                own[name].lerp_(tensor.to(own[name]), adaptor_share)
            else:
                own[name].copy_(tensor)
    new = [name for name in own if name not in usable]
    return list(usable), new, [name for name in state if name not in usable]


def apply_pretrained(
    model: nn.Module, path: str, what: str = "encoder", encoder: str = "", adaptor_share: float = 1.0,
    feature_scaling: str = "",
) -> Transfer:  # fmt: skip
    """Load a pre-trained model into `model` and freeze a part of it.

    Parameters
    ----------
    model
        A new model of the same architecture.
    path
        A checkpoint of ours, or one in the authors' layout (``UniSRec-FHCKM-300.pth``).
    what
        Part that does not learn: ``encoder`` (with positions and input LayerNorm), ``adaptor`` or ``none``.
    encoder
        Description of the text encoder that made the features of this dataset, if known.
    adaptor_share
        From 0 to 1: how much of the pre-trained adaptor stays in the start, the rest being the model's initial weights.
        After Ash and Adams, "On Warm-Starting Neural Network Training", NeurIPS 2020, who shrink all weights and add noise;
        here the encoder stays whole.
    feature_scaling
        How `model` scales its text features (`data.features.scale_features`), if known.

    Raises
    ------
    UserError
        If `adaptor_share` is outside 0 to 1, or below 1 with the adaptor frozen. If the file cannot be read, is of another
        architecture, or was trained on features of another text encoder, or scaled in another way (which a new adaptor
        may be, since it reads them afresh).
    """
    from recbole_unisrec.pretrained import load_pretrained

    if isinstance(adaptor_share, bool) or not isinstance(adaptor_share, int | float) or not 0 <= adaptor_share <= 1:
        raise UserError(
            f"adaptor_share must be a number from 0 (new weights) to 1 (pre-trained ones), not {adaptor_share!r}"
        )
    if adaptor_share < 1 and what == "adaptor":
        raise UserError(
            "adaptor_share below 1 mixes new weights into the adaptor, which must then learn; drop freeze=adaptor"
        )
    state, meta = load_pretrained(path)
    source = path + "".join(f" (torn checkpoint passed over: {line})" for line in meta.get("passed", []))
    trained_with = str(meta.get("encoder") or "")
    if encoder and trained_with and encoder != trained_with:
        raise UserError(
            f"{path} was trained on text features of {trained_with}, but this dataset has those of {encoder}; "
            "encode the texts again with the same encoder and pooling"
        )
    scaled_with = str((meta.get("config") or {}).get("feature_scaling") or "")
    if adaptor_share > 0 and feature_scaling and scaled_with and feature_scaling != scaled_with:
        raise UserError(
            f"the adaptor of {path} was trained with feature_scaling={scaled_with}, but this run has "
            f"feature_scaling={feature_scaling}; give the same, or start with a new adaptor (adaptor_share=0, freeze=none)"
        )
    loaded, new, unused = copy_weights(model, state, path, adaptor_share)
    frozen = freeze(model, what)
    n_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Transfer(source, tuple(loaded), tuple(new), tuple(unused), frozen, n_trained, float(adaptor_share))


def transfer_from_config(config: Any, model: nn.Module, encoder: str = "") -> Transfer | None:
    """`apply_pretrained` as ``pretrained``, ``freeze`` and ``adaptor_share`` say; None if nothing is asked for."""
    s = TransferSettings.from_config(config)
    if not s.pretrained:
        if s.adaptor_share != 1:
            raise UserError(
                "adaptor_share says how much of a pre-trained adaptor to keep; give pretrained=FILE or drop it"
            )
        if s.freeze:
            raise UserError("freeze without pretrained would keep random weights; give pretrained=FILE or drop freeze")
        return None
    if s.adaptor_share != 1 and TrainingSettings.from_config(config).epochs == 0:
        raise UserError(
            "adaptor_share below 1 mixes in new weights, which must learn; drop it, or train for an epoch or more"
        )
    scaling = TextSettings.from_config(config).feature_scaling
    return apply_pretrained(model, s.pretrained, s.freeze or "encoder", encoder, s.adaptor_share, scaling)
