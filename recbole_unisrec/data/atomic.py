"""Read interactions, in either layout, into integer arrays.

*Standard*: RecBole's ``NAME.inter`` with user_id, item_id and timestamp. *Split*: the ``NAME.{train,valid,test}.inter``
that UniSRec's authors distribute, in which every prefix is written out; here they are folded back into one sequence a
user, so that memory stays linear in the number of interactions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from recbole_unisrec.errors import UserError
from recbole_unisrec.setting_table import DataSettings

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class AtomicFields:
    """Names of the columns and separators of atomic files, under RecBole's defaults.

    Attributes
    ----------
    user, item, time
        Columns of the user, the item and the time.
    item_list
        Column of prefixes that are written out.
    separator, seq_separator
        Between columns, and between the items of a prefix.
    encoding
        Of the files; None is UTF-8.
    """

    user: str = "user_id"
    item: str = "item_id"
    time: str = "timestamp"
    item_list: str = "item_id_list"
    separator: str = "\t"
    seq_separator: str = " "
    encoding: str | None = None

    @classmethod
    def of(cls, data: DataSettings) -> AtomicFields:
        """From the settings.

        Raises
        ------
        UserError
            If a separator is more than one character.
        """
        for name, value in (("field_separator", data.field_separator), ("seq_separator", data.seq_separator)):
            if not value:
                raise UserError(f"{name} must be a character, not {value!r}")
        if len(data.field_separator.encode()) != 1:
            raise UserError(f"field_separator must be one ASCII character, not {data.field_separator!r}")
        return cls(
            data.user_field, data.item_field, data.time_field, f"{data.item_field}{data.list_suffix}",
            data.field_separator, data.seq_separator, data.encoding,
        )  # fmt: skip


@dataclass(frozen=True)
class Interactions:
    """Interactions in the order of the file.

    Attributes
    ----------
    user, item
        int64 [n] rows of the token lists.
    time
        float64 [n] timestamps; in the split layout the position within the user.
    user_tokens, item_tokens
        Distinct tokens, in order of first appearance.
    """

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    user_tokens: list[str]
    item_tokens: list[str]


def find_layout(folder: Path, name: str) -> str:
    """``"standard"`` or ``"split"``, whichever lies in the folder (standard wins where both do).

    Raises
    ------
    UserError
        If neither does; the sentence names the command that prepares the dataset.
    """
    if (folder / f"{name}.inter").is_file():
        return "standard"
    if (folder / f"{name}.train.inter").is_file():
        for split in SPLITS:
            if not (folder / f"{name}.{split}.inter").is_file():
                raise UserError(f"{folder} has {name}.train.inter but no {name}.{split}.inter; copy all three files")
        return "split"
    raise UserError(f"dataset {name!r} is not there: {folder} holds no {name}.inter; {prepare_hint(name, folder)}")


def prepare_hint(name: str, folder: Path) -> str:
    """The command that prepares a dataset, guessed from its name."""
    out = folder.parent
    known = {
        "ml-100k": f"python -m dataset_tools.movielens --out {out}",
        "OR": f"python -m dataset_tools.online_retail --raw FILE --out {out}",
    }
    amazon = {"Food", "Home", "CDs", "Kindle", "Movies", "Pantry", "Scientific", "Instruments", "Arts", "Office"}
    if name in amazon:
        command = f"python -m dataset_tools.amazon {name} --download --out {out}"
    else:
        command = known.get(
            name, f"python -m dataset_tools.custom --interactions FILE --items FILE --name {name} --out {out}"
        )
    return f"prepare it with `{command}` or give --data_path=FOLDER"


def read_header(path: Path, fields: AtomicFields) -> list[str]:
    """Names of the columns of an atomic file, without their types.

    Raises
    ------
    UserError
        If the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            header = file.readline().decode(fields.encoding or "utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError, LookupError) as error:
        raise UserError(f"cannot read line 1 of {path}: {error}") from error
    return [field.split(":")[0] for field in header.split(fields.separator)]


def read_columns(path: Path, wanted: tuple[str, ...], fields: AtomicFields = AtomicFields()) -> pl.DataFrame:
    """Columns of an atomic file as strings.

    Raises
    ------
    UserError
        If a column is missing, or a line is malformed; the sentence names file and line.
    """
    names = read_header(path, fields)
    missing = [name for name in wanted if name not in names]
    if missing:
        shown = "<TAB>" if fields.separator == "\t" else fields.separator
        raise UserError(
            f"{path} line 1: no column {', '.join(missing)} (found {', '.join(names) or 'nothing'}); the header must be "
            f"like {fields.user}:token{shown}{fields.item}:token{shown}{fields.time}:float"
        )
    try:
        table = pl.read_csv(
            path, separator=fields.separator, quote_char=None, has_header=False, skip_rows=1, new_columns=names,
            schema=dict.fromkeys(names, pl.String), encoding=fields.encoding or "utf8",
        )  # fmt: skip
    except (pl.exceptions.NoDataError, StopIteration) as error:
        raise UserError(f"{path} has a header but no interaction; prepare the dataset again") from error
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(_first_bad_line(path, len(names), fields) or f"cannot read {path}: {error}") from error
    if not len(table):
        raise UserError(f"{path} has a header but no interaction; prepare the dataset again")
    table = table.select(wanted)
    if any(table[name].null_count() for name in wanted):
        raise UserError(
            _first_bad_line(path, len(names), fields)
            or f"{path} has an empty {', '.join(n for n in wanted if table[n].null_count())}; mend or remove that line"
        )
    return table


def _first_bad_line(path: Path, n_fields: int, fields: AtomicFields) -> str:
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                found = line.decode(fields.encoding or "utf-8").rstrip("\r\n").split(fields.separator)
            except UnicodeDecodeError:
                return f"{path} line {number}: not UTF-8; convert the file, for example with iconv"
            if len(found) != n_fields or not all(found):
                between = "tabs" if fields.separator == "\t" else repr(fields.separator)
                return (
                    f"{path} line {number}: expected {n_fields} non-empty fields between {between}, found "
                    f"{sum(map(bool, found))}; mend or remove the line"
                )
    return ""


def codes(values: pl.Series) -> tuple[np.ndarray, list[str]]:
    """Integer codes in order of first appearance, int64 [n], and the distinct values."""
    distinct = values.unique(maintain_order=True)
    table = pl.DataFrame({"value": distinct}).with_row_index("code")
    found = pl.DataFrame({"value": values}).join(table, on="value", how="left", maintain_order="left")["code"]
    return found.cast(pl.Int64).to_numpy().copy(), distinct.to_list()


def read_times(path: Path, values: pl.Series) -> np.ndarray:
    """Times float64 [n] of a column of strings.

    Raises
    ------
    UserError
        If one is no number; names its line.
    """
    times = values.cast(pl.Float64, strict=False)
    finite = times.is_finite().fill_null(False)
    if not finite.all():
        row = int(np.flatnonzero(~finite.to_numpy())[0])
        raise UserError(
            f"{path} line {row + 2}: {values.name} {values[row]!r} is not a number; mend or remove the line"
        )
    return times.to_numpy().copy()


def read_standard(path: Path, fields: AtomicFields = AtomicFields()) -> Interactions:
    """Read ``NAME.inter``.

    Raises
    ------
    UserError
        If the file is empty, lacks a column, or has a malformed line (with its number).
    """
    table = read_columns(path, (fields.user, fields.item, fields.time), fields)
    times = read_times(path, table[fields.time])
    users, user_tokens = codes(table[fields.user])
    items, item_tokens = codes(table[fields.item])
    return Interactions(users, items, times, user_tokens, item_tokens)


class NotLeaveOneOut(UserError):
    """The rows of split files are not the leave-one-out pairs of one sequence for each user."""


def read_splits(folder: Path, name: str, fields: AtomicFields = AtomicFields()) -> Interactions:
    """Read the authors' three files and fold the prefixes back into one sequence a user.

    Raises
    ------
    NotLeaveOneOut
        If the rows are not the leave-one-out pairs of one sequence for each user.
    UserError
        If a file is malformed.
    """
    user, item, item_list = fields.user, fields.item, fields.item_list
    tables = []
    for rank, split in enumerate(SPLITS):
        path = folder / f"{name}.{split}.inter"
        tables.append(
            read_columns(path, (user, item_list, item), fields)
            .with_columns(
                pl.col(item_list).str.split(fields.seq_separator).alias("prefix"), pl.lit(rank, pl.Int8).alias("split")
            )
            .drop(item_list)
        )
    rows = pl.concat(tables).with_columns(pl.col("prefix").list.len().alias("length"))
    cut = int(rows.select(pl.col("length").max()).item())
    # the longest row of a user holds the whole sequence, unless it reaches the length at which rows are cut
    longest = (
        rows.sort("split", "length", maintain_order=True)
        .group_by(user, maintain_order=True)
        .last()
        .with_columns(pl.concat_list("prefix", item).alias("sequence"))
    )
    order = rows.select(pl.col(user).unique(maintain_order=True))
    longest = order.join(longest, on=user, how="left", maintain_order="left")
    sequences: dict[str, list[str]] = {}
    for token in longest.filter(pl.col("length") >= cut)[user]:
        own = rows.filter(pl.col(user) == token).sort("split", maintain_order=True)
        train = own.filter(pl.col("split") == 0)
        chain = pl.concat([train.sort("length", maintain_order=True), own.filter(pl.col("split") > 0)])
        sequences[token] = _unfold(chain["prefix"].to_list(), chain[item].to_list(), cut, token, folder / name)
    if sequences:
        unfolded = pl.DataFrame({user: list(sequences), "whole": list(sequences.values())})
        longest = longest.join(unfolded, on=user, how="left", maintain_order="left").with_columns(
            pl.coalesce("whole", "sequence").alias("sequence")
        )
    longest = longest.with_columns(pl.col("sequence").list.len().alias("n"))
    _check_rows(rows, longest, user, item, cut, folder / name)
    flat = longest.select(user, "sequence", "n").explode("sequence")
    counts = longest["n"].to_numpy().astype(np.int64)
    users, user_tokens = codes(flat[user])
    items, item_tokens = codes(flat["sequence"])
    time = np.arange(len(flat), dtype=np.float64) - np.repeat(np.cumsum(counts) - counts, counts)
    return Interactions(users, items, time, user_tokens, item_tokens)


def _unfold(prefixes: list[list[str]], targets: list[str], cut: int, token: str, name: Path) -> list[str]:
    """Join the rows of a user whose prefixes are cut; rows of one length stand from the last to the first, as written
    by the authors, or from the first to the last."""
    for candidate in (range(len(prefixes)), _reverse_cut(prefixes, cut)):
        sequence = [*prefixes[0]]
        for row in candidate:
            if sequence[-cut:] != prefixes[row]:
                break
            sequence.append(targets[row])
        else:
            return sequence
    raise NotLeaveOneOut(
        f"{name}.*.inter: the rows of user {token!r} are not the leave-one-out pairs of one sequence; prepare them again"
    )


def _reverse_cut(prefixes: list[list[str]], cut: int) -> list[int]:
    """Row numbers with the run of cut training rows (all but the last two rows) reversed."""
    short = [row for row in range(len(prefixes) - 2) if len(prefixes[row]) < cut]
    long = [row for row in range(len(prefixes) - 2) if len(prefixes[row]) >= cut]
    return [*short, *reversed(long), *range(max(0, len(prefixes) - 2), len(prefixes))]


def _check_rows(rows: pl.DataFrame, longest: pl.DataFrame, user: str, item: str, cut: int, name: Path) -> None:
    """Every row must be a prefix of its user's sequence, and every pair must be there once."""
    joined = rows.join(longest.select(user, "sequence", "n"), on=user, how="left", maintain_order="left")
    short = joined.filter(pl.col("length") < cut).with_columns(
        pl.col("sequence").list.get(pl.col("length"), null_on_oob=True).alias("expected"),
        pl.col("sequence").list.head(pl.col("length")).alias("head"),
    )
    wrong = short.filter((pl.col("expected") != pl.col(item)).fill_null(True) | (pl.col("head") != pl.col("prefix")))
    counts = joined.group_by(user).agg(pl.len().alias("rows"), pl.col("n").first())
    uneven = counts.filter(pl.col("rows") != pl.col("n").cast(pl.Int64) - 1)
    for bad in (wrong, uneven):
        if len(bad):
            raise NotLeaveOneOut(
                f"{name}.*.inter: the rows of user {bad[user][0]!r} are not the leave-one-out pairs of one sequence; "
                f"write {name.name}.inter with user_id, item_id and timestamp instead"
            )
