"""From a training checkpoint and its dataset to what serving needs; the only module here that knows RecBole."""

from __future__ import annotations

import dataclasses
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataset_tools.features import Fields, read_texts, recorded_columns
from dataset_tools.features.items import header_names, read_item_table
from dataset_tools.lsa import LatentSemantics
from recbole_unisrec.data.feature_files import feature_paths
from recbole_unisrec.data.features import read_meta, scaling
from recbole_unisrec.data.sequences import Pairs
from recbole_unisrec.errors import UserError
from recbole_unisrec.model.text_path import with_usual
from recbole_unisrec.record import versions
from recbole_unisrec.registry import MODELS, PACKED
from recbole_unisrec.safe_load import safe_torch_load
from recbole_unisrec.serving.folder import Meta, Parts
from recbole_unisrec.serving.network import Network, NetworkSettings
from recbole_unisrec.serving.side_by_side import made_elsewhere, record
from recbole_unisrec.serving.snapshot import item_frame, short_title
from recbole_unisrec.setting_table import DataSettings, EncoderSettings, RunSettings, TextSettings
from recbole_unisrec.unfinished import remark

N_QUERIES = 500  # histories of the test part whose encoding is kept


def _data_folder(config: Any, checkpoint: Path) -> Path:
    """The dataset's folder: as recorded, from here or from where training ran."""
    recorded = Path(DataSettings.from_config(config).data_path)
    candidates = [recorded] if recorded.is_absolute() else [recorded, checkpoint.resolve().parent.parent / recorded]
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise UserError(
        f"the dataset of {checkpoint} is not at {recorded}; run from the folder that training ran in, or give the "
        "parent of the dataset's folder as data_path"
    )


def read_checkpoint(path: Path, data_path: str | Path | None = None) -> Parts:
    """Read a checkpoint of UniSRec, or of another model with one table of items, and the dataset it was trained on.

    Parameters
    ----------
    path
        ``saved/UniSRec-....pth``; runs no code from it.
    data_path
        Folder that holds the dataset's folder; None takes what the checkpoint says.

    Raises
    ------
    UserError
        If it is no checkpoint of such a model, or the dataset is missing or another.
    """
    from recbole.data import create_dataset

    if said := remark(path):
        logging.getLogger("recbole_unisrec.serving").warning(said)
    saved = safe_torch_load(path, map_location="cpu")
    try:
        config, state = saved["config"], saved["state_dict"]
        run = RunSettings.from_config(config)
        name, dataset_name = run.model, run.dataset
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is no checkpoint of a training run (it lacks {error}); give saved/....pth") from error
    if name not in PACKED:
        raise UserError(f"{path} holds a {name}; {', '.join(PACKED)} can be served")
    final = config.final_config_dict
    if data_path is not None:
        final["data_path"] = str(Path(data_path) / dataset_name)
    final["data_path"] = str(_data_folder(config, path))
    final["device"] = torch.device("cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = create_dataset(config)
        train, _, test = dataset.build()
    model = MODELS[name].model(config, train)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{path} does not fit the dataset {final['data_path']} ({reason}); give its own") from error
    model.eval()
    table = model.eval_table().detach()
    settings = _settings(config, model)
    network = Network(settings)
    wanted = network.state_dict()
    weights = {name: values for name, values in state.items() if name in wanted}
    features = getattr(dataset, "features", None) if settings.n_exps else None
    if settings.scaled and features is not None:
        mean, matrix = scaling(train.known_features, TextSettings.from_config(config).feature_scaling, features.widths)
        weights.update(feature_mean=mean, feature_matrix=matrix)
    if settings.history:
        weights["history_bias"] = model.distance_bias().detach()
    popularity = train.item_popularity()
    if settings.path:
        mean, matrix = scaling(train.known_features, "whiten", dataset.features.widths)
        weights.update(path_mean=mean, path_matrix=matrix)
        weights.update(path_weights=torch.stack(model.text_path.weights()), path_age=model.text_path.age_weights())
    network.load_state_dict(weights)
    if settings.path:
        table = network.widened(table, dataset.features.weight, with_usual(popularity, dataset.cold))

    folder = Path(final["data_path"])
    files = (
        feature_paths(folder, dataset_name, TextSettings.from_config(config).plm_suffix) if features is not None else []
    )
    tokens = dataset.field2id_token[dataset.iid_field].tolist()[1:]
    encoder = record([read_meta(file) for file in files]) if files else {}
    fields = Fields.of(final)
    if columns := next((found for file in files if (found := recorded_columns(file))), None):
        fields = dataclasses.replace(fields, text_cols=columns)
    ids, texts = _ids_and_texts(
        folder, dataset_name, tokens, dataset.numbered, fields, not files or bool(made_elsewhere(encoder))
    )
    fitted_files = [beside for file in files if (beside := file.with_name(file.name + ".npz")).is_file()]
    if len(fitted_files) > 1:
        raise UserError(
            f"{' and '.join(map(str, fitted_files))} are both fitted to texts; a model is saved with one such"
        )
    fitted = LatentSemantics.load(fitted_files[0]) if fitted_files else None
    forms = {"inductive_ft": "inductive", "transductive_ft": "transductive", "pretrain": "inductive"}
    stage = getattr(model, "train_stage", None)
    return Parts(
        meta=Meta(name, forms.get(str(stage), "ids"), dataset_name, encoder, versions()),
        settings=settings,
        network=network,
        items=item_frame(ids, texts, _titles(folder, dataset_name, fields, ids), popularity[1:].numpy()),
        table=table[1:].detach().numpy(),
        features=None if features is None else features.weight[1:].numpy(),
        # after a fit on everything the histories of training are all there are
        queries=_queries((test if len(test.pairs) else train).pairs, table, network),
        index=None,
        encoder=fitted,
    )


def _settings(config: Any, model: Any) -> NetworkSettings:
    adaptor = getattr(model, "moe_adaptor", None)
    encoder = EncoderSettings.from_config(config)
    return NetworkSettings(
        n_layers=encoder.n_layers,
        n_heads=encoder.n_heads,
        hidden_size=encoder.hidden_size,
        inner_size=encoder.inner_size,
        hidden_act=encoder.hidden_act,
        layer_norm_eps=encoder.layer_norm_eps,
        window=DataSettings.from_config(config).window,
        n_exps=0 if adaptor is None else adaptor.n_exps,
        plm_size=0 if adaptor is None else model.features.shape[1],
        cosine=model.cosine,
        scaled=adaptor is not None and TextSettings.from_config(config).feature_scaling != "none",
        history=model.history_bias is not None or model.mask_history,
        path=0 if model.text_path is None else model.text_path.columns.shape[1] - 1,
    )


def _ids_and_texts(
    folder: Path, name: str, tokens: list[str], numbered: bool, fields: Fields, textless: bool
) -> tuple[list[str], list[str]]:
    """Raw ids and texts of the tokens, which may be row numbers (see `SequenceDataset.numbered`).

    `textless`: the model reads no text, so that items without one are shown by their ids.
    """
    if not any((folder / f"{name}.{kind}").is_file() for kind in ("text", "item")):
        return tokens, tokens  # a dataset without texts: the id is all there is to show
    try:
        ids, texts = read_texts(folder, name, fields)
    except UserError:
        if numbered or not textless:
            raise
        return tokens, tokens
    text_of = dict(zip(ids, texts, strict=True))
    if numbered:
        try:
            return [ids[int(t)] for t in tokens], [texts[int(t)] for t in tokens]
        except (ValueError, IndexError) as error:
            raise UserError(f"{folder} has interactions with items that its texts lack; prepare it again") from error
    return tokens, [text_of.get(token, token) for token in tokens]


def _titles(folder: Path, name: str, fields: Fields, ids: list[str]) -> list[str] | None:
    """Titles of the column ``title`` of ``NAME.item``; None where there is none, and titles come from the texts."""
    path = folder / f"{name}.item"
    if not path.is_file() or not {"title", fields.item_id} <= set(header_names(path, fields)):
        return None
    found = read_item_table(path, dataclasses.replace(fields, text_cols=("title",))).texts
    return [short_title(found.get(item, "")) for item in ids]


def _queries(pairs: Pairs, table: Tensor, network: Network) -> Tensor:
    """Outputs of the encoder for evenly spread test histories."""
    index = torch.from_numpy(np.linspace(0, len(pairs) - 1, min(N_QUERIES, len(pairs))).astype(np.int64))
    if not len(index):
        return torch.zeros(0, table.shape[1])
    start, target = pairs.start[index], pairs.target[index]
    flat = torch.cat([pairs.items[a:b] for a, b in zip(start.tolist(), target.tolist(), strict=True)])
    return network.encode(flat, (target - start).tolist(), table.__getitem__).clone()
