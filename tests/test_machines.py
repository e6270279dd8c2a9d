"""Machines that people own: locales that are not UTF-8, no home folder, odd paths, little shared memory, no oneDNN."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dataset_tools.common import run_cli
from dataset_tools.precision import has_fast_bf16
from recbole_unisrec import quick_start
from recbole_unisrec.errors import UserError
from recbole_unisrec.settings import build_config
from recbole_unisrec.trainer import PackedTrainer
from tests.conftest import SMALL, write_ring

ROOT = Path(__file__).resolve().parents[1]
TITLE = "Größe ✓ 東京"
# train, save, recommend as a user types them, in one process
SCRIPT = """
import sys
from recbole_unisrec.cli import main
for part in " ".join(sys.argv[1:]).split(" then "):
    if status := main(part.split(" ")):
        sys.exit(status)
"""
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
UTF8 = {"LC_ALL": "C.UTF-8"}


def run_script(folder: Path, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[bytes]:
    (folder / "commands.py").write_text(SCRIPT, encoding="utf-8")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "XDG_", "HF_", "MPL", "PYTHONIO"))}
    environment = {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HOME": "/proc/no/home", **environment}
    command = [sys.executable, "commands.py", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=300)


def write_titled(folder: Path, name: str) -> None:
    file = write_ring(folder / "dataset", name) / f"{name}.item"
    file.write_text(file.read_text(encoding="utf-8").replace("thing number", TITLE), encoding="utf-8")


def trained(name: str, checkpoints: str) -> str:
    small = "--hidden_size=16 --inner_size=16 --n_exps=2 --use_gpu=False --epochs 1 --recipe ours"
    return f"train --model UniSRec --dataset {name} --train_stage inductive_ft --checkpoint_dir={checkpoints} {small}"


@pytest.mark.skipif(sys.platform == "win32", reason="no C locale")
def test_without_utf8_without_home_in_a_path_with_blanks(tmp_path: Path) -> None:
    folder = tmp_path / "Läden & Söhne" / "l'été 1"
    folder.mkdir(parents=True)
    write_titled(folder, "ring")
    asked = "recommend --model model --history item-1 --k 3"
    found = run_script(
        folder, ASCII, *f"{trained('ring', 'saved')} then save --model saved --out model then {asked}".split(" ")
    )
    assert found.returncode == 0, found.stderr[-2000:]
    assert b"Traceback" not in found.stderr
    assert b"Gr\\xf6\\xdfe \\u2713 \\u6771\\u4eac" in found.stdout  # the terminal cannot show the letters
    if sys.platform != "linux":
        return  # macOS reads file names as UTF-8 in every locale
    refused = run_script(folder, ASCII, "save", "--model", "saved", "--out", "mödel")
    assert refused.returncode == 1
    assert refused.stderr.strip().splitlines()[-1].startswith(b"error: the argument 'm")
    assert b"set LC_ALL=C.UTF-8 or PYTHONUTF8=1" in refused.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="no C.UTF-8 locale")
def test_names_with_other_letters(tmp_path: Path) -> None:
    write_titled(tmp_path, "Läden")
    asked = "recommend --model mödel --history item-1 --k 3"
    found = run_script(
        tmp_path, UTF8, *f"{trained('Läden', 'säved')} then save --model säved --out mödel then {asked}".split(" ")
    )
    assert found.returncode == 0, found.stderr[-2000:]
    assert TITLE in found.stdout.decode("utf-8")
    (log,) = (tmp_path / "log" / "UniSRec").glob("*.log")
    assert "Läden" in log.read_text(encoding="utf-8")


def test_output_of_letters_that_the_terminal_lacks(capfd: pytest.CaptureFixture[str]) -> None:
    code = "from dataset_tools.common import run_cli; run_cli(lambda a: print('✓ é'), [])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "latin-1"}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=60)
    assert (found.returncode, found.stdout.strip()) == (0, b"\\u2713 \xe9")
    assert run_cli(lambda _: None, ["--out", "m\udcc3"]) == 1
    assert "is not readable in the encoding of this locale" in capfd.readouterr().err


def test_without_onednn(ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a torch that is built without it (some ARM and macOS builds)."""
    settings = {**SMALL, "train_stage": "inductive_ft", "recipe": "ours", "epochs": 2, "precision": "bf16"}
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not has_fast_bf16("cpu")
    with torch.backends.mkldnn.flags(enabled=False):
        without = quick_start.train(build_config("UniSRec", "ring", [], settings))
    fp32 = quick_start.train(build_config("UniSRec", "ring", [], {**settings, "precision": "fp32"}))
    assert without.test == pytest.approx(fp32.test, abs=0.05)
    assert without.epochs[-1]["loss"] == pytest.approx(fp32.epochs[-1]["loss"], rel=1e-3)


def test_too_little_shared_memory_is_one_sentence(ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container with the usual 64 MB in /dev/shm; the error is torch's."""
    settings = {**SMALL, "train_stage": "inductive_ft", "train_mode": "prefix", "epochs": 1}

    def fit(*_: object, **__: object) -> None:
        raise RuntimeError(
            "Caught RuntimeError in DataLoader worker process 0.\nRuntimeError: unable to allocate shared memory(shm) for "
            "file </torch_7427_3622073859_0>: No space left on device (28)"
        )

    monkeypatch.setattr(PackedTrainer, "fit", fit)
    with pytest.raises(
        UserError, match=r"too little shared memory in /dev/shm; set worker=0, or give the container more"
    ):
        quick_start.train(build_config("UniSRec", "ring", [], settings))
