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

from recbole_unisrec.data.atomic import find_layout, read_splits, read_standard
from recbole_unisrec.data.features import FeatureTable, load_features
from recbole_unisrec.data.sequences import (
    LeaveOneOut,
    Pairs,
    Segments,
    cut_segments,
    hold_out_items,
    keep_users,
    leave_one_out,
)
from recbole_unisrec.errors import UserError

COLD_BY = ("random", "time")
LEAVE_ONE_OUT = {"LS": "valid_and_test"}


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

    def __contains__(self, name: object) -> bool:
        return name == self.list_field or name in self.interaction

    @property
    def columns(self) -> list[str]:
        """Names of the fields, the padded list included."""
        return [*self.interaction, self.list_field]

    def to(self, device: Any, selected_field: Any = None) -> Interaction:
        """Pad all rows and copy them to a device (large: [n, window] int64)."""
        return self[slice(None)].to(device, selected_field)


class SequenceDataset(SequentialDataset):
    """Leave-one-out next-item dataset from either layout of files, in memory linear in the interactions.

    Splits and prefixes are those of RecBole's ``SequentialDataset``. After `build`, each part has ``pairs``, the
    training part also has ``segments``.

    Raises
    ------
    UserError
        If files are missing or malformed, or settings ask for another split than leave-one-out.
    """

    pairs: Pairs
    split: LeaveOneOut
    cold: Tensor | None = None  # bool [n_items], items held out of training by ``cold_items``

    def __init__(self, config: Any) -> None:
        self.max_item_list_len = config["MAX_ITEM_LIST_LENGTH"]
        self.item_list_length_field = config["ITEM_LIST_LENGTH_FIELD"]
        Dataset.__init__(self, config)  # not SequentialDataset's: it would look for the split files in RecBole's way

    def _get_preset(self) -> None:
        super()._get_preset()
        self.benchmark_filename_list = None
        self.item_id_list_field = self.config["ITEM_ID_FIELD"] + self.config["LIST_SUFFIX"]

    def _load_data(self, token: str, dataset_path: str) -> None:
        folder = Path(dataset_path)
        if not folder.is_dir():
            from recbole_unisrec.data.atomic import prepare_hint

            raise UserError(f"dataset {token!r} is not there: no folder {folder}; {prepare_hint(token, folder)}")
        self.layout = find_layout(folder, token)
        if self.layout == "standard":
            found = read_standard(folder / f"{token}.inter", self.uid_field, self.iid_field, self.time_field)
        else:
            found = read_splits(folder, token, self.uid_field, self.iid_field, self.item_id_list_field)
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
        # RecBole numbers the codes of the reader anew (filters may have dropped some); put the tokens back
        super()._remap_ID_all()
        for field, tokens in self._tokens.items():
            codes = self.field2id_token[field][1:].astype(np.int64)
            names = ["[PAD]", *(tokens[code] for code in codes)]
            self.field2id_token[field] = np.array(names)
            self.field2token_id[field] = {name: i for i, name in enumerate(names)}
        del self._tokens

    def _change_feat_format(self) -> None:
        if len(self.inter_feat) == 0:
            raise UserError(f"no interaction of {self.dataset_name} is left after the filters; relax them")
        users, items = self.inter_feat[self.uid_field].to_numpy(), self.inter_feat[self.iid_field].to_numpy()
        # ties in time keep the order of the file
        order = np.lexsort((self.inter_feat[self.time_field].to_numpy(), users))
        users, items = users[order], items[order]
        first = np.flatnonzero(np.r_[True, users[1:] != users[:-1]])
        offsets = np.r_[first, len(users)]
        self.split = leave_one_out(items, offsets, users[first].astype(np.int64), self.max_item_list_len)
        if self.config["cold_items"]:
            self.cold = self._cold_items(items, self.inter_feat[self.time_field].to_numpy()[order])
            self.split = hold_out_items(self.split, self.cold, self.max_item_list_len)
        if self.config["train_users"] is not None:
            self.split = keep_users(self.split, self._train_users())
        parts = (self.split.train, self.split.valid, self.split.test)
        shift = [0, len(parts[0].items), len(parts[0].items)] if self.config["cold_items"] else [0, 0, 0]
        whole = Pairs(
            torch.cat([parts[0].items, parts[2].items]) if self.config["cold_items"] else parts[0].items,
            torch.cat([p.user for p in parts]),
            *(torch.cat([getattr(p, f) + n for p, n in zip(parts, shift, strict=True)]) for f in ("start", "target")),
        )
        self.set_field_property(self.item_list_length_field, FeatureType.TOKEN, FeatureSource.INTERACTION, 1)
        self.set_field_property(
            self.item_id_list_field, FeatureType.TOKEN_SEQ, FeatureSource.INTERACTION, self.max_item_list_len
        )
        self.field2id_token[self.item_id_list_field] = self.field2id_token[self.iid_field]
        self.field2token_id[self.item_id_list_field] = self.field2token_id[self.iid_field]
        self._set_pairs(whole)

    def _cold_items(self, items: np.ndarray, times: np.ndarray) -> Tensor:
        """bool [n_items]: a share of the items, drawn at random (always the same) or the newest."""
        share, by = self.config["cold_items"], self.config["cold_by"] or "random"
        if not isinstance(share, float) or not 0 < share < 1 or by not in COLD_BY:
            raise UserError(
                f"cold_items must be a share between 0 and 1 and cold_by one of {', '.join(COLD_BY)}, not {share!r} and "
                f"{by!r}"
            )
        if by == "time" and self.layout == "split":
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
        args = self.config["eval_args"]
        if args["split"] != LEAVE_ONE_OUT or args["order"] != "TO":
            raise UserError(
                f"{self.config['model']} splits leave-one-out, but eval_args asks for {args['split']} in order "
                f"{args['order']}; use split {LEAVE_ONE_OUT} and order TO"
            )
        self._change_feat_format()
        if not len(self.split.train) or not len(self.split.test):
            raise UserError(
                f"{self.dataset_name} has no user with three interactions or more, so nothing can be held out; "
                "use a larger dataset"
            )
        built = []
        for pairs in (self.split.train, self.split.valid, self.split.test):
            part = self.copy(self.inter_feat)
            part._set_pairs(pairs)
            built.append(part)
        return built

    @property
    def segments(self) -> Segments:
        """Training stretches cut to the window (``long_sequences: exact`` or ``blocks``)."""
        return cut_segments(
            self.split.train.items,
            self.split.train_start,
            self.split.train_stop,
            self.max_item_list_len,
            exact=self.config["long_sequences"] == "exact",
        )

    def item_popularity(self) -> Tensor:
        """int64 [n_items]: how often each item occurs in the users' training stretches, as input or next item."""
        counts = torch.zeros(self.item_num, dtype=torch.int64)
        stretch = torch.zeros(len(self.split.train.items) + 1, dtype=torch.int64)
        stretch[self.split.train_start] += 1
        stretch[self.split.train_stop] -= 1
        inside = stretch.cumsum(0)[:-1].bool()
        return counts.index_add_(0, self.split.train.items[inside], inside.long()[inside])

    def save(self) -> None:
        """Refuse: RecBole's cache would survive a changed feature file, and loading it runs code from the file."""
        raise UserError(f"{type(self).__name__} is not cached (it loads in seconds); drop save_dataset")


class TextDataset(SequenceDataset):
    """`SequenceDataset` with the text features of its items in ``features``."""

    features: FeatureTable

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        folder = Path(self.dataset_path)
        index_path = folder / f"{self.dataset_name}.item2index"
        tokens = self.field2id_token[self.iid_field].tolist()
        row_of = read_index(index_path) if index_path.is_file() else None
        n_rows = len(row_of) if row_of is not None else 1 + max(int(t) for t in tokens[1:] if t.isdecimal())
        self.features = load_features(
            folder / f"{self.dataset_name}.{config['plm_suffix']}",
            tokens,
            row_of if self.layout == "standard" else None,
            n_rows,
            config["plm_size"],
        )

    @property
    def known_features(self) -> Tensor:
        """float32 [n, d_plm] features of the items that training may know of: all but those of ``cold_items``."""
        rows = self.features.weight[1:]
        return rows if self.cold is None else rows[~self.cold[1:]]


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
