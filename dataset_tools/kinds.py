"""The table of raw data that becomes a dataset: each kind is one module with its options and its reader."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dataset_tools.arguments import add_arguments, new_parser
from dataset_tools.common import UserError, run_cli

if TYPE_CHECKING:
    from dataset_tools.pipeline import Dataset
    from dataset_tools.sources import BadLines

Built = tuple["Dataset", dict[str, Any]]

# a new kind: its module, with a KIND, and one line here
MODULES = {
    "custom": "dataset_tools.custom",
    "online_retail": "dataset_tools.online_retail",
    "amazon": "dataset_tools.amazon",
}


@dataclass(frozen=True)
class Kind:
    """One kind of raw data.

    Attributes
    ----------
    tool
        Name of the module below `dataset_tools`.
    usage
        What must be given.
    description, epilog
        Of the help; the epilog keeps its line ends.
    options
        Adds the options of this kind to a parser.
    read
        Given the parsed options, whether to show progress, and where bad lines go; returns the dataset and its
        provenance.
    name
        Name of the dataset, from the options.
    """

    tool: str
    usage: str
    description: str
    epilog: str
    options: Callable[[argparse.ArgumentParser], None]
    read: Callable[[argparse.Namespace, bool, BadLines], Built]
    name: Callable[[argparse.Namespace], str] = lambda args: str(args.name)

    def parser(self) -> argparse.ArgumentParser:
        """The command line: the options of this kind, then those of every kind."""
        parser = new_parser(self.tool, self.usage, self.description, self.epilog)
        self.options(parser)
        add_arguments(parser)
        return parser

    def main(self, arguments: list[str]) -> int:
        """Run the command."""
        args = self.parser().parse_args(arguments)
        from dataset_tools.writer import make_dataset

        make_dataset(args, self.name(args), lambda show, bad: self.read(args, show, bad))
        return 0


def load_kind(name: str) -> Kind:
    """The kind of that name.

    Raises
    ------
    UserError
        If there is none.
    """
    if name not in MODULES:
        raise UserError(f"there is no kind of data {name!r}; choose one of {', '.join(MODULES)}")
    kind: Kind = importlib.import_module(MODULES[name]).KIND
    return kind


def main(arguments: list[str]) -> int:
    """``python -m dataset_tools KIND ...`` is ``python -m dataset_tools.KIND ...``."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(
            "usage: python -m dataset_tools KIND [options]\n\nkinds of raw data (--help after one shows its options):"
        )
        for name in MODULES:
            print(f"  {name:<15}{load_kind(name).description.split('. ')[0]}")
        return 0
    return load_kind(arguments[0]).main(arguments[1:])


if __name__ == "__main__":
    sys.exit(run_cli(main))
