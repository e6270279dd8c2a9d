"""RecBole dataset for the packed models: sequences kept once, prefixes cut when asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from recbole.data.dataset import Dataset, SequentialDataset
from recbole.utils.enum_type import FeatureSource, FeatureType
from torch import Tensor

from recbole_unisrec.data.atomic import SPLITS, AtomicFields, NotLeaveOneOut, find_layout, read_splits, read_standard
from recbole_unisrec.data.benchmark import Given, read_given
from recbole_unisrec.data.download import fetch_dataset
from recbole_unisrec.data.held_out import draw_items, draw_users, hold_out_items, keep_users, some_users
from recbole_unisrec.data.interaction import PairInteraction
from recbole_unisrec.data.sequences import Pairs, Segments
from recbole_unisrec.data.split_names import split_function
from recbole_unisrec.data.splits import Sequences, Split, as_given
from recbole_unisrec.errors import UserError
from recbole_unisrec.setting_table import (
    DataSettings,
    EvaluationSettings,
    TrainingSettings,
)

# settings with which RecBole's own reading is needed: they name columns that ours passes over, or change them
OTHER_COLUMNS = (
    "unload_col", "additional_feat_suffix", "threshold", "preload_weight", "alias_of_user_id", "normalize_field",
    "normalize_all", "discretization", "numerical_features",
)  # fmt: skip


def needs_recbole(config: Any) -> bool:
    """Whether settings ask for columns or filters beyond user, item and time, so that RecBole's own reading is used."""
    data = DataSettings.from_config(config)
    own = {data.user_field, data.item_field, data.time_field, "user_id", "item_id"}
    columns = data.load_col
    plain = isinstance(columns, dict) and set(columns) == {"inter"} and set(columns["inter"]) <= own
    filters = set(data.val_interval or {}) - {data.time_field}
    return not plain or bool(filters) or any(config[name] for name in OTHER_COLUMNS)


class SequenceDataset(SequentialDataset):
    """Next-item dataset from any layout of files, in memory linear in the interactions.

    Users, items, pairs and prefixes are those of RecBole's ``SequentialDataset`` under the same settings. After `build`,
    each part has ``pairs``, the training part also has ``segments``.

    Raises
    ------
    UserError
        If files are missing or malformed, or settings do not fit them.
    """

    pairs: Pairs
    split: Split
    cold: Tensor | None = None  # bool [n_items], items held out of training by ``cold_items``
    given: Given | None = None  # files that came split beforehand

    def __init__(self, config: Any) -> None:
        self.settings = DataSettings.from_config(config)
        self.eval_args = EvaluationSettings.from_config(config).eval_args
        self.exact = TrainingSettings.from_config(config).long_sequences == "exact"
        self.max_item_list_len = self.settings.window
        self.item_list_length_field = self.settings.length_field
        self._tokens: dict[str, list[str]] = {}
        self.inter_feat: Any = None
        try:
            Dataset.__init__(
                self, config
            )  # not SequentialDataset's: it would look for the split files in RecBole's way
        except (ValueError, KeyError, TypeError, AttributeError) as error:  # RecBole's, on what it cannot do
            if isinstance(error, UserError):
                raise
            text = str(error).strip("'")
            raise UserError(
                f"RecBole cannot load {self.settings.dataset} with these settings ({type(error).__name__}: {text}); check "
                "load_col and the filters against the columns of its files"
            ) from error

    def _get_preset(self) -> None:
        super()._get_preset()
        self.item_id_list_field = self.settings.item_field + self.settings.list_suffix

    def _set_alias(self, alias_name: str, default_value: list[str]) -> None:
        super()._set_alias(alias_name, default_value)
        # a column that is not there has no ids to share
        self.alias[alias_name] = np.array([f for f in self.alias[alias_name] if f in self.field2type])

    def _load_data(self, token: str, dataset_path: str) -> None:
        folder = Path(dataset_path)
        fetch_dataset(folder, token)
        fields = AtomicFields.of(self.settings)
        files = self.settings.benchmark_filename
        self.layout = "given" if files is not None else find_layout(folder, token)
        if self.layout == "standard" and needs_recbole(self.config):
            super()._load_data(token, dataset_path)
            missing = [f for f in (self.uid_field, self.iid_field, self.time_field) if f not in self.inter_feat]
            if missing:
                raise UserError(
                    f"{folder / f'{token}.inter'}: {', '.join(missing)} is not loaded; name it in load_col inter, and see "
                    "USER_ID_FIELD, ITEM_ID_FIELD and TIME_FIELD"
                )
            return
        if self.layout == "standard":
            found = read_standard(folder / f"{token}.inter", fields)
        elif self.layout == "split":
            try:
                found = read_splits(folder, token, fields)
            except NotLeaveOneOut:  # then they are whatever they are
                self.layout, files = "given", SPLITS
        if self.layout == "given":
            self.given = read_given(folder, token, files or SPLITS, fields, self.max_item_list_len)
            found = self.given.entries
        # what is split beforehand is not filtered, here as in RecBole
        self.benchmark_filename_list = None if files is None else list(files)
        self._tokens = {self.uid_field: found.user_tokens, self.iid_field: found.item_tokens}
        self.inter_feat = pd.DataFrame(
            {self.uid_field: found.user, self.iid_field: found.item, self.time_field: found.time}
        )
        for field, ftype, source in (
            (self.uid_field, FeatureType.TOKEN, FeatureSource.USER_ID),
            (self.iid_field, FeatureType.TOKEN, FeatureSource.ITEM_ID),
            (self.time_field, FeatureType.FLOAT, FeatureSource.INTERACTION),
        ):
            self.set_field_property(field, ftype, source, 1)
        self.user_feat = self.item_feat = None

    def _remap_ID_all(self) -> None:
        if self.given is not None:  # nothing was filtered, so the codes of our reader are the numbers but for padding
            for field, tokens in self._tokens.items():
                names = ["[PAD]", *tokens]
                self.field2id_token[field] = np.array(names)
                self.field2token_id[field] = {name: i for i, name in enumerate(names)}
                self.inter_feat[field] += 1
            return
        super()._remap_ID_all()
        # RecBole numbers the codes of our readers anew (filters may have dropped some); put the tokens back
        for field, tokens in self._tokens.items():
            codes = self.field2id_token[field][1:].astype(np.int64)
            names = ["[PAD]", *(tokens[code] for code in codes)]
            self.field2id_token[field] = np.array(names)
            self.field2token_id[field] = {name: i for i, name in enumerate(names)}
        self._tokens = {}

    def _change_feat_format(self) -> None:
        if len(self.inter_feat) == 0:
            raise UserError(f"no interaction of {self.dataset_name} is left after the filters; relax them")
        users, items, times = (
            self.inter_feat[field].to_numpy() for field in (self.uid_field, self.iid_field, self.time_field)
        )
        self.user_feat = self.item_feat = None  # columns have done their part in the filters
        self.feat_name_list = ["inter_feat"]
        self.split = self._split(users, items, times)
        if self.settings.cold_items is not None:
            if self.settings.cold_by == "time" and not self.has_times:
                raise UserError(f"{self.dataset_name} comes in split files, which have no times; use cold_by: random")
            first = times if self.settings.cold_by == "time" else None
            self.cold = draw_items(items, self.settings.cold_items, self.item_num, first)
            self.split = hold_out_items(self.split, self.cold, self.max_item_list_len)
        if self.settings.train_users is not None:
            drawn = draw_users(self.split.train_user, self.settings.train_users, self.user_num)
            self.split = keep_users(self.split, drawn)
        whole = Pairs(
            self.split.items,
            *(torch.cat([getattr(p, name) for p in self.split.parts]) for name in ("user", "start", "target")),
        )
        self.set_field_property(self.item_list_length_field, FeatureType.TOKEN, FeatureSource.INTERACTION, 1)
        self.set_field_property(
            self.item_id_list_field, FeatureType.TOKEN_SEQ, FeatureSource.INTERACTION, self.max_item_list_len
        )
        self.field2id_token[self.item_id_list_field] = self.field2id_token[self.iid_field]
        self.field2token_id[self.item_id_list_field] = self.field2token_id[self.iid_field]
        self._set_pairs(whole)

    def _split(self, users: np.ndarray, items: np.ndarray, times: np.ndarray) -> Split:
        """The split that the files or ``eval_args`` ask for."""
        window, whole = self.max_item_list_len, "ALL" in self.eval_args["split"]
        if self.given is not None and self.given.begin is not None:
            sequences = Sequences(items.astype(np.int64), users.astype(np.int64), self.given.begin, times)
            positions = self.given.positions
            nothing = np.zeros(0, dtype=np.int64)
            return as_given(sequences, window, [np.concatenate(positions), nothing, nothing] if whole else positions)
        sequences = Sequences.of(users, items, times)
        if self.given is not None and self.given.part is not None and not whole:
            part = self.given.part[np.lexsort((times, users))][sequences.targets]
            return as_given(sequences, window, [sequences.targets[part == k] for k in range(3)])
        args = self.eval_args
        if "TIME" in args["split"] and not self.has_times:
            raise UserError(
                f"{self.dataset_name} comes in split files, which have no times; it cannot be split by time"
            )
        return split_function(args)(sequences, window)

    def read_index(self) -> dict[str, int] | None:
        """Row of each item in the feature file; None if nothing says so."""
        path = Path(self.dataset_path) / f"{self.dataset_name}.item2index"
        return read_index(path) if path.is_file() else None

    @property
    def numbered(self) -> bool:
        """Whether item tokens are numbers of rows in the texts and features (the authors' files), rather than names."""
        if self.layout == "standard":
            return False
        index = self.read_index()
        return index is None or not all(token in index for token in self.field2id_token[self.iid_field][1:])

    @property
    def has_times(self) -> bool:
        """Whether times are more than the order within the user."""
        return self.layout == "standard" or (self.given is not None and self.given.part is not None)

    def _set_pairs(self, pairs: Pairs) -> None:
        self.pairs = pairs
        self.inter_feat = PairInteraction(
            pairs,
            self.max_item_list_len,
            {
                "user": self.uid_field,
                "item": self.iid_field,
                "length": self.item_list_length_field,
                "list": self.item_id_list_field,
            },
        )

    def build(self) -> list[SequenceDataset]:
        """Split into training, validation and test parts.

        Returns
        -------
        list of SequenceDataset
            Each shares tokens and features with this one.
        """
        self._change_feat_format()
        self._check_parts()
        parts = list(self.split.parts)
        if self.settings.eval_users:
            parts[1:] = some_users(parts[1], parts[2], self.settings.eval_users, self.user_num)
        built = []
        for pairs in parts:
            part = self.copy(self.inter_feat)
            part._set_pairs(pairs)
            built.append(part)
        return built

    def _check_parts(self) -> None:
        """Say what is wrong where nothing is left to train on, or to measure by."""
        asked = "benchmark_filename" if self.given is not None else str(self.eval_args["split"])
        train, valid, test = (len(part) for part in self.split.parts)
        if train and (valid or test or "ALL" in self.eval_args["split"]):
            return
        if self.given is None and "LS" in self.eval_args["split"]:
            raise UserError(
                f"{self.dataset_name} has no user with three interactions or more, so nothing can be held out; "
                "use a larger dataset"
            )
        raise UserError(
            f"{self.dataset_name} split by {asked} has {train} pairs to train on, {valid} to validate and {test} to test; "
            "choose another split"
        )

    @property
    def segments(self) -> Segments:
        """What training reads, cut to the window (``long_sequences: exact`` or ``blocks``)."""
        return self.split.segments(self.max_item_list_len, exact=self.exact)

    def repeat_share(self) -> float:
        """Share of the users' training interactions, the first of each left out, with an item that the user had before."""
        start, stop = self.split.stretches()
        length = stop - start
        owner = torch.repeat_interleave(torch.arange(len(start)), length)
        row = torch.arange(len(owner)) - (length.cumsum(0) - length)[owner] + start[owner]
        held = torch.zeros(len(self.split.items), dtype=torch.bool)
        held[self.split.valid.target] = held[self.split.test.target] = True
        owner, row = owner[~held[row]], row[~held[row]]
        distinct = len((owner * self.item_num + self.split.items[row]).unique())
        return (len(owner) - distinct) / max(1, len(owner) - len(owner.unique()))

    def item_popularity(self) -> Tensor:
        """int64 [n_items]: how often each item occurs in training, as input or next item."""
        return self.split.popularity(self.item_num)

    def save(self) -> None:
        """Refuse: RecBole's cache would survive a changed feature file, and loading it runs code from the file."""
        raise UserError(f"{type(self).__name__} is not cached (it loads in seconds); drop save_dataset")


def read_index(path: Path) -> dict[str, int]:
    """Read ``NAME.item2index`` (token<TAB>row).

    Raises
    ------
    UserError
        If a line is malformed.
    """
    index: dict[str, int] = {}
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            token, separator, row = line.rstrip("\r\n").rpartition("\t")
            if not separator or not row.isdecimal():
                raise UserError(f"{path} line {number}: expected token<TAB>row; prepare the dataset again")
            index[token] = int(row)
    return index
