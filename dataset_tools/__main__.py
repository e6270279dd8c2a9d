"""``python -m dataset_tools``: see `dataset_tools.kinds`."""

import sys

from dataset_tools.common import run_cli
from dataset_tools.kinds import main

sys.exit(run_cli(main))
