"""RecBole datasets for the packed models: sequences kept once, prefixes cut when asked for, text features by item."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from recbole.data.dataset import Dataset, SequentialDataset
from recbole.data.interaction import Interaction
from recbole.utils.enum_type import FeatureSource, FeatureType
from torch import Tensor

from recbole_unisrec.data.atomic import SPLITS, Fields, NotLeaveOneOut, find_layout, read_splits, read_standard
from recbole_unisrec.data.benchmark import Given, read_given
from recbole_unisrec.data.download import fetch_dataset
from recbole_unisrec.data.feature_files import feature_paths, load_side_by_side
from recbole_unisrec.data.features import FeatureTable
from recbole_unisrec.data.mapped import MappedFeatures
from recbole_unisrec.data.sequences import Pairs, Segments
from recbole_unisrec.data.splits import Sequences, Split, as_given, hold_out_items, keep_users, split_function
from recbole_unisrec.errors import UserError

COLD_BY = ("random", "time")
# settings with which RecBole's own reading is needed: they name columns that ours passes over, or change them
OTHER_COLUMNS = (
    "unload_col", "additional_feat_suffix", "threshold", "preload_weight", "alias_of_user_id", "normalize_field",
    "normalize_all", "discretization", "numerical_features",
)  # fmt: skip
MANY_ITEMS = 200_000  # from so many on, ``features_on: auto`` leaves text features on the disk where it can


def some_users(valid: Pairs, test: Pairs, most: int, n_users: int) -> tuple[Pairs, Pairs]:
    """Validation and test pairs of at most so many users, always the same ones, for catalogues that take long to rank."""
    users = torch.cat([valid.user, test.user]).unique().numpy()
    kept = torch.zeros(n_users, dtype=torch.bool)
    kept[torch.from_numpy(np.random.default_rng(0).permutation(users)[:most])] = True
    return valid.where(kept[valid.user]), test.where(kept[test.user])


class PairInteraction(Interaction):
    """RecBole ``Interaction`` of (prefix, next item) pairs that pads prefixes only for the rows that are asked for."""

    def __init__(self, pairs: Pairs, window: int, fields: dict[str, str]) -> None:
        self.pairs, self.window, self.list_field = pairs, window, fields["list"]
        super().__init__(
            {
                fields["user"]: pairs.user,
                fields["item"]: pairs.items[pairs.target],
                fields["length"]: pairs.target - pairs.start,
            }
        )

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, str):
            if index == self.list_field:
                return self.pairs.padded(slice(None), self.window)
            return self.interaction[index]
        if isinstance(index, list | np.ndarray):
            index = torch.as_tensor(np.asarray(index))
        rows = {name: values[index] for name, values in self.interaction.items()}
        return Interaction({**rows, self.list_field: self.pairs.padded(index, self.window)})

    def _reindex(self, index: Any) -> None:
        """Put the rows in another order, in place (RecBole's ``sort`` and ``shuffle``)."""
        index = torch.as_tensor(np.asarray(index))
        super()._reindex(index)
        pairs = self.pairs
        self.pairs = Pairs(pairs.items, pairs.user[index], pairs.start[index], pairs.target[index])

    def __contains__(self, name: object) -> bool:
        return name == self.list_field or name in self.interaction

    @property
    def columns(self) -> list[str]:
        """Names of the fields, the padded list included."""
        return [*self.interaction, self.list_field]

    def to(self, device: Any, selected_field: Any = None) -> Interaction:
        """Pad all rows and copy them to a device (large: [n, window] int64)."""
        return self[slice(None)].to(device, selected_field)


def needs_recbole(config: Any) -> bool:
    """Whether settings ask for columns or filters beyond user, item and time, so that RecBole's own reading is used."""
    own = {config["USER_ID_FIELD"], config["ITEM_ID_FIELD"], config["TIME_FIELD"], "user_id", "item_id"}
    columns = config["load_col"]
    plain = isinstance(columns, dict) and set(columns) == {"inter"} and set(columns["inter"]) <= own
    filters = set(config["val_interval"] or {}) - {config["TIME_FIELD"]}
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
        self.max_item_list_len = config["MAX_ITEM_LIST_LENGTH"]
        self.item_list_length_field = config["ITEM_LIST_LENGTH_FIELD"]
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
                f"RecBole cannot load {config['dataset']} with these settings ({type(error).__name__}: {text}); check "
                "load_col and the filters against the columns of its files"
            ) from error

    def _get_preset(self) -> None:
        super()._get_preset()
        self.item_id_list_field = self.config["ITEM_ID_FIELD"] + self.config["LIST_SUFFIX"]

    def _set_alias(self, alias_name: str, default_value: list[str]) -> None:
        super()._set_alias(alias_name, default_value)
        # a column that is not there has no ids to share
        self.alias[alias_name] = np.array([f for f in self.alias[alias_name] if f in self.field2type])

    def _load_data(self, token: str, dataset_path: str) -> None:
        folder = Path(dataset_path)
        fetch_dataset(folder, token)
        fields = Fields.of(self.config)
        files = self.config["benchmark_filename"]
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
                self.layout, files = "given", list(SPLITS)
        if self.layout == "given":
            self.given = read_given(folder, token, files, fields, self.max_item_list_len)
            found = self.given.entries
        # what is split beforehand is not filtered, here as in RecBole
        self.benchmark_filename_list = files
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
        if self.config["cold_items"]:
            self.cold = self._cold_items(items, times)
            self.split = hold_out_items(self.split, self.cold, self.max_item_list_len)
        if self.config["train_users"] is not None:
            self.split = keep_users(self.split, self._train_users())
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
        window, whole = self.max_item_list_len, "ALL" in self.config["eval_args"]["split"]
        if self.given is not None and self.given.begin is not None:
            sequences = Sequences(items.astype(np.int64), users.astype(np.int64), self.given.begin, times)
            positions = self.given.positions
            nothing = np.zeros(0, dtype=np.int64)
            return as_given(sequences, window, [np.concatenate(positions), nothing, nothing] if whole else positions)
        sequences = Sequences.of(users, items, times)
        if self.given is not None and self.given.part is not None and not whole:
            part = self.given.part[np.lexsort((times, users))][sequences.targets]
            return as_given(sequences, window, [sequences.targets[part == k] for k in range(3)])
        args = self.config["eval_args"]
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

    def _cold_items(self, items: np.ndarray, times: np.ndarray) -> Tensor:
        """bool [n_items]: a share of the items, drawn at random (always the same) or the newest."""
        share, by = self.config["cold_items"], self.config["cold_by"] or "random"
        if not isinstance(share, float) or not 0 < share < 1 or by not in COLD_BY:
            raise UserError(
                f"cold_items must be a share between 0 and 1 and cold_by one of {', '.join(COLD_BY)}, not {share!r} and "
                f"{by!r}"
            )
        if by == "time" and not self.has_times:
            raise UserError(f"{self.dataset_name} comes in split files, which have no times; use cold_by: random")
        known = np.unique(items)
        if by == "time":
            first = np.full(self.item_num, np.inf)
            np.minimum.at(first, items, times)
            order = known[np.argsort(first[known], kind="stable")]
        else:
            order = np.random.default_rng(0).permutation(known)
        cold = torch.zeros(self.item_num, dtype=torch.bool)
        cold[torch.from_numpy(order[len(order) - max(1, round(share * len(order))) :].copy())] = True
        return cold

    def _train_users(self) -> Tensor:
        """bool [n_users]: a random share of the users with training pairs; those of a smaller share are among them."""
        share = self.config["train_users"]
        if not isinstance(share, float | int) or not 0 < share <= 1:
            raise UserError(f"train_users must be a share above 0 and at most 1, not {share!r}")
        users = self.split.train_user.numpy()
        drawn = np.random.default_rng(0).permutation(users)[: max(1, round(share * len(users)))]
        kept = torch.zeros(self.user_num, dtype=torch.bool)
        kept[torch.from_numpy(drawn)] = True
        return kept

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
        if self.config["eval_users"]:
            parts[1:] = some_users(parts[1], parts[2], int(self.config["eval_users"]), self.user_num)
        built = []
        for pairs in parts:
            part = self.copy(self.inter_feat)
            part._set_pairs(pairs)
            built.append(part)
        return built

    def _check_parts(self) -> None:
        """Say what is wrong where nothing is left to train on, or to measure by."""
        asked = "benchmark_filename" if self.given is not None else str(self.config["eval_args"]["split"])
        train, valid, test = (len(part) for part in self.split.parts)
        if train and (valid or test or "ALL" in self.config["eval_args"]["split"]):
            return
        if self.given is None and "LS" in self.config["eval_args"]["split"]:
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
        return self.split.segments(self.max_item_list_len, exact=self.config["long_sequences"] == "exact")

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


class TextDataset(SequenceDataset):
    """`SequenceDataset` with the text features of its items in ``features``."""

    features: FeatureTable

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        folder = Path(self.dataset_path)
        row_of = None if self.numbered else self.read_index()
        tokens = self.field2id_token[self.iid_field].tolist()
        index = row_of or self.read_index()
        n_rows = len(index) if index is not None else 1 + max((int(t) for t in tokens[1:] if t.isdecimal()), default=-1)
        self.features = load_side_by_side(
            feature_paths(folder, self.dataset_name, config["plm_suffix"]),
            tokens,
            row_of,
            n_rows,
            config["plm_size"],
            config["text_cols"],
            on_disk=stay_on_disk(config, len(tokens)),
        )

    @property
    def known_features(self) -> Tensor:
        """float32 [n, d_plm] features of the items that training may know of: all but those of ``cold_items``."""
        if isinstance(self.features.weight, MappedFeatures):
            return self.features.weight.sample(None if self.cold is None else ~self.cold)
        rows = self.features.weight[1:]
        return rows if self.cold is None else rows[~self.cold[1:]]


def stay_on_disk(config: Any, n_items: int) -> bool:
    """Whether text features stay in their file (``features_on``); ``auto`` leaves many there if a loss asks for few.

    Raises
    ------
    UserError
        If every step needs all of them.
    """
    where, full = config["features_on"] or "auto", (config["loss"] or "full") == "full"
    if where == "disk" and full:
        raise UserError(
            "the full softmax needs all text features at every step; features_on=disk goes with loss=sampled or gbce"
        )
    as_it_is = (config["feature_precision"] or "fp32") == "fp32"
    if where == "disk" and not as_it_is:
        raise UserError("features_on=disk takes the file as it is; leave feature_precision out")
    if where == "disk" and config["text_path"]:
        raise UserError("text_path compares the texts of all items; leave it or features_on=disk out")
    as_it_is = as_it_is and not config["text_path"]
    many = n_items >= MANY_ITEMS and config["device"].type == "cpu"
    return where == "disk" or (where == "auto" and many and as_it_is and not full)


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
