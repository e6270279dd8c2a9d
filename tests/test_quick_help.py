"""Help comes at once, and RecBole still finds the models whichever is imported first."""

import subprocess
import sys
from pathlib import Path

import pytest

from recbole_unisrec.cli import COMMANDS, main

HEAVY = ["torch", "recbole", "transformers", "pandas", "scipy", "polars", "numpy", "matplotlib"]


def run(code: str, tmp_path: Path) -> str:
    """What a fresh interpreter prints."""
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return found.stdout


ASK = """
import contextlib, io, sys
from dataset_tools.common import run_cli
from recbole_unisrec.cli import main, train_command

def ask(call, arguments, said):
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            code = call(arguments)
    except SystemExit as end:
        code = end.code
    assert code == 0, arguments
    assert printed.getvalue().startswith(said), (arguments, printed.getvalue())
    heavy = [name for name in HEAVY if name in sys.modules]
    assert not heavy, (arguments, heavy)

for words in COMMANDS:
    ask(main, [*words, "--help"], "usage: ")
    ask(main, [*words, "--version"], "recbole_unisrec 0.")
ask(lambda arguments: run_cli(train_command, arguments), ["--help-settings"], "")
for flag in ([], ["--leaderboard"]):
    ask(lambda arguments: run_cli(train_command, arguments), [*flag, "--help"], "usage: run_unisrec.py")
"""


def test_help_and_version_of_every_command_import_nothing_heavy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--help"]) == 0
    assert len(COMMANDS) > 8
    words = [[], ["train", "--leaderboard"], *([name] for name in COMMANDS)]
    run(f"HEAVY = {HEAVY}; COMMANDS = {words}\n{ASK}", tmp_path)


@pytest.mark.parametrize("module", ["recbole_unisrec.cli", "run_unisrec"])
def test_the_import_alone_is_light(module: str, tmp_path: Path) -> None:
    root = str(Path(__file__).resolve().parents[1])
    code = f"import sys; sys.path.insert(0, {root!r}); import {module}; print([n for n in {HEAVY} if n in sys.modules])"
    assert run(code, tmp_path).strip() == "[]"


@pytest.mark.parametrize(
    "order",
    [
        "import recbole_unisrec; from recbole.utils import get_model, get_trainer",
        "from recbole.utils import get_model, get_trainer; import recbole_unisrec",
        # a module that imports RecBole while it is itself half imported
        "import recbole_unisrec.model.base; from recbole.utils import get_model, get_trainer",
        "import recbole_unisrec.plugin; from recbole.utils import get_model, get_trainer",
    ],
)
def test_recbole_finds_the_models_in_any_order_of_imports(order: str, tmp_path: Path) -> None:
    code = f"""{order}
import recbole_unisrec, torch
from recbole.config import Config
from recbole.model.sequential_recommender import UniSRec
assert get_model("UniSRec") is recbole_unisrec.UniSRec is UniSRec
assert get_trainer(None, "UniSRec").__module__ == "recbole_unisrec.trainer"
assert get_trainer(None, "SASRec").__name__ == "Trainer"
import recbole.data.dataset as datasets
assert datasets.UniSRecDataset.__module__ == "recbole_unisrec.data.text_dataset"
assert not hasattr(datasets, "SASRecDataset")
assert not torch.is_anomaly_enabled()
print(Config(model="UniSRec", dataset="ml-100k")["n_exps"])
"""
    assert run(code, tmp_path).strip() == "8"
