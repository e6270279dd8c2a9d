"""Several domains as one pre-training set, without copying them.

| file | content |
|---|---|
| ``NAME.mixture.json`` | the domains: folder (relative to this one), counts, and what made their feature files |
| ``NAME.pt_datasets`` | the names of the domains, separated by commas |
| ``NAME.items.npy`` | int32 [n_interactions]: global item indices, user after user, in time order, whole sequences |
| ``NAME.offsets.npy`` | int64 [n_users + 1]: the items of user u are ``items[offsets[u]:offsets[u + 1]]`` |
| ``NAME.user_domain.npy`` | int16 [n_users]: the domain of each user, by position in the list |

The global index of an item is the number of items in the domains before, plus its index within its own. Interactions
of the same second keep the order of the file. The feature files stay where they are.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np

from dataset_tools import __version__
from dataset_tools.arguments import new_parser
from dataset_tools.common import UserError, run_cli, whole_folder
from dataset_tools.domains import Domain, read_domain, unused_columns

SAME = ("width", "encoder", "pooling", "max_length", "prompt")  # what makes features comparable


def _check_same(domains: list[Domain]) -> None:
    """Every feature file of one suffix must come from the same encoder."""
    for suffix in sorted({suffix for domain in domains for suffix in domain.features}):
        having = [domain for domain in domains if suffix in domain.features]
        for other in having[1:]:
            a, b = having[0].features[suffix], other.features[suffix]
            for key in SAME:
                if key in a and key in b and a[key] != b[key]:
                    raise UserError(
                        f"the {suffix} files differ: {key} is {a[key]!r} in {having[0].name} and {b[key]!r} in "
                        f"{other.name}; encode one of them again with the settings of the other"
                    )


def build_mixture(names: list[str], data: Path, name: str | None = None, overwrite: bool = False) -> Path:
    """Write ``data/NAME``, a set of several domains; time, memory and disk grow with the interactions.

    Parameters
    ----------
    names
        The domains, folders of `data`.
    data
        The folder of datasets.
    name
        Of the mixture; None takes the first letters of the domains.
    overwrite
        Replace an existing mixture.

    Returns
    -------
    Path
        The new folder; see the module for its files.

    Raises
    ------
    UserError
        If a domain is missing or broken, an item has no index, feature files come from different encoders, or the
        folder exists. A failed run leaves an existing folder as it was.
    """
    data = Path(data)
    if not names:
        raise UserError("no domains were named; give at least one folder of --data")
    twice = [domain for domain in names if names.count(domain) > 1]
    if twice:
        raise UserError(f"the domain {twice[0]} is named twice; name each once")
    if len(names) > np.iinfo(np.int16).max:
        raise UserError(f"{len(names)} domains are more than the {np.iinfo(np.int16).max} that a mixture can hold")
    bad = [part for part in [*names, *([name] if name else [])] if part != Path(part).name or part in ("", "..")]
    if bad:
        raise UserError(f"{bad[0]!r} is no plain folder name; give names of folders in --data")
    name = name or "".join(domain[0] for domain in names)
    folder = data / name
    if name in names:
        raise UserError(f"the mixture cannot have the name of its domain {name}; choose another --name")

    def check() -> None:
        if folder.exists() and not overwrite:
            raise UserError(f"{folder} exists; add --overwrite to replace it, or choose another --name")
        if folder.exists() and not (folder / f"{name}.mixture.json").is_file():
            raise UserError(f"{folder} holds no mixture, so it is not replaced; choose another --name")

    check()
    domains = [read_domain(data / domain) for domain in names]
    _check_same(domains)
    n_items = sum(domain.n_items for domain in domains)
    if n_items > np.iinfo(np.int32).max:
        raise UserError(f"{n_items} items are more than int32 can number; mix fewer domains")
    n_users = [len(domain.offsets) - 1 for domain in domains]
    n_rows = [len(domain.items) for domain in domains]
    starts = np.cumsum([0, *(domain.n_items for domain in domains)])
    description = {
        "name": name,
        "n_items": n_items,
        "n_users": sum(n_users),
        "n_interactions": sum(n_rows),
        "domains": [
            {
                "name": domain.name,
                "folder": os.path.relpath(domain.folder, folder),
                "first_item": int(start),
                "n_items": domain.n_items,
                "n_users": users,
                "n_interactions": rows,
                "features": domain.features,
            }
            for domain, start, users, rows in zip(domains, starts, n_users, n_rows, strict=False)
        ],
        "order": "by domain, then user, then time, then the order of the file",
        "tool_version": __version__,
    }
    with whole_folder(folder, check) as fresh:
        items = np.lib.format.open_memmap(fresh / f"{name}.items.npy", "w+", np.int32, (sum(n_rows),))
        offsets = np.zeros(sum(n_users) + 1, dtype=np.int64)
        row = user = 0
        for domain, start in zip(domains, starts, strict=False):
            np.add(domain.items, start, out=items[row : row + len(domain.items)], casting="unsafe")
            offsets[user : user + len(domain.offsets)] = domain.offsets + row
            row, user = row + len(domain.items), user + len(domain.offsets) - 1
        items.flush()
        del items
        np.save(fresh / f"{name}.offsets.npy", offsets, allow_pickle=False)
        user_domain = np.repeat(np.arange(len(domains), dtype=np.int16), n_users)
        np.save(fresh / f"{name}.user_domain.npy", user_domain, allow_pickle=False)
        (fresh / f"{name}.pt_datasets").write_text(",".join(names) + "\n", encoding="utf-8", newline="\n")
        text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
        (fresh / f"{name}.mixture.json").write_text(text, encoding="utf-8", newline="\n")
    return folder


def main(arguments: list[str]) -> None:
    """The command line; see ``--help``."""
    parser = new_parser(
        "mixture",
        "DOMAIN...",
        description="Make one pre-training set of several prepared domains. Only the sequences are written, once, as "
        "indices; text features stay in the domains' folders. Domains may be in RecBole's layout (NAME.inter) or in "
        "the authors' (NAME.train.inter, ...).",
        epilog="example:\n  python -m dataset_tools.mixture Food Home CDs Kindle Movies --name FHCKM --data dataset/",
    )
    parser.add_argument("domains", nargs="+", metavar="DOMAIN", help="a dataset's folder in DATA")
    parser.add_argument("--name", help="of the mixture (default: the first letters of the domains)")
    parser.add_argument("--data", type=Path, default=Path("dataset"), help="folder of datasets (default: dataset/)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing mixture")
    args = parser.parse_args(arguments)
    folder = build_mixture(args.domains, args.data, args.name, args.overwrite)
    found = json.loads((folder / f"{folder.name}.mixture.json").read_text(encoding="utf-8"))
    for domain in found["domains"]:
        print(
            f"{domain['name']}: {domain['n_users']} users, {domain['n_items']} items, {domain['n_interactions']} "
            f"interactions, features: {', '.join(domain['features']) or 'none yet'}"
        )
        if unused := unused_columns(folder / domain["folder"]):
            print(f"  not used: {', '.join(unused)} (pre-training reads who took what when)")
    print(f"{folder}: {found['n_users']} users, {found['n_items']} items, {found['n_interactions']} interactions")


if __name__ == "__main__":
    sys.exit(run_cli(main))
