"""Train and evaluate: ``python run_unisrec.py --model UniSRec --dataset Scientific`` (see --help)."""

import sys

from dataset_tools.common import run_cli
from recbole_unisrec.cli import train_command

if __name__ == "__main__":
    sys.exit(run_cli(train_command))
