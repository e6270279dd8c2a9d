"""The command ``unisrec export``."""

from __future__ import annotations

import argparse
from pathlib import Path

from dataset_tools.arguments import add_usual
from recbole_unisrec.errors import UserError


def export_command(arguments: list[str]) -> int:
    """A checkpoint becomes a file that the authors' code reads."""
    parser = argparse.ArgumentParser(
        prog="unisrec export",
        description="Write a pre-trained model in the layout of UniSRec's authors, for their finetune.py -p.",
        epilog="example: unisrec export --pretrained saved/UniSRec-BSO/best --out UniSRec-BSO.pth",
    )
    parser.add_argument(
        "--pretrained", required=True, metavar="PATH",
        help="a checkpoint's folder, a run's folder (its best checkpoint), a .safetensors or a .pth file",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the new .pth file")
    add_usual(parser)
    options = parser.parse_args(arguments)
    if options.out.suffix != ".pth":
        raise UserError(f"--out {options.out} must end in .pth, the authors' layout")
    from recbole_unisrec.pretrained import export_authors

    content = export_authors(options.pretrained, options.out)
    n_values = sum(tensor.numel() for tensor in content["state_dict"].values())
    print(f"{options.out}: {len(content['state_dict'])} tensors, {n_values:,} values, for finetune.py -p {options.out}")
    return 0


COMMANDS = {"export": (export_command, "a pre-trained model in the layout of UniSRec's authors")}
