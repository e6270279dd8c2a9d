"""`python -m dataset_tools.features`."""

import sys

from dataset_tools.common import run_cli
from dataset_tools.features.command import main

if __name__ == "__main__":
    sys.exit(run_cli(main))
