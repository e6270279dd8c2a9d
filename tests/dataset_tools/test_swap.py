"""A folder is replaced in one step, and who is killed in the middle leaves the old one or the new one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dataset_tools import swap as module
from dataset_tools.common import UserError, whole_folder
from dataset_tools.swap import exchange, recover_folder, swap

ROOT = Path(__file__).resolve().parents[2]


def folder(path: Path, text: str) -> Path:
    path.mkdir()
    (path / "text").write_text(text)
    return path


def test_names_are_exchanged(tmp_path: Path) -> None:
    old, new = folder(tmp_path / "old", "old"), folder(tmp_path / "new", "new")
    if not exchange(new, old):
        pytest.skip("this file system cannot exchange names")
    assert (old / "text").read_text() == "new"
    assert (new / "text").read_text() == "old"
    with pytest.raises(FileNotFoundError):
        exchange(old, tmp_path / "absent")


@pytest.mark.parametrize("able", [True, False])
def test_swap(tmp_path: Path, able: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not able:
        monkeypatch.setattr(module, "exchange", lambda *_: False)
    place = tmp_path / "place"
    for text in ("one", "two", "three"):
        swap(folder(tmp_path / "new", text), place)
        assert (place / "text").read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


KILLED = """
import os, sys
from pathlib import Path
from dataset_tools import swap
real, count = os.rename, 0
def rename(*arguments):
    real(*arguments)
    os.kill(os.getpid(), 9)
os.rename = rename
swap.exchange = lambda *_: False
swap.swap(Path("new"), Path("place[1]"))
"""


def test_killed_between_two_renames_where_names_cannot_be_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder(tmp_path / "new", "new")
    place = folder(tmp_path / "place[1]", "old")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not place.exists()
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    assert recover_folder(place)
    assert (place / "text").read_text() == "old"
    assert not recover_folder(place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "place[1]"]


def test_a_swap_under_way_is_waited_for(tmp_path: Path) -> None:
    place, new = tmp_path / "place", folder(tmp_path / "new", "new")
    (tmp_path / ".place.x.old").mkdir()
    folder(tmp_path / ".place.x.old" / "place", "old")
    threading.Timer(0.3, os.rename, (new, place)).start()
    assert not recover_folder(place)
    assert (place / "text").read_text() == "new"


LOOP = """
from pathlib import Path
from dataset_tools.common import whole_folder
n = 0
while True:
    n += 1
    with whole_folder(Path("place"), lambda: None) as new:
        (new / "a").write_text(str(n))
        (new / "b").write_text(str(n))
    print(n, flush=True)
"""


@pytest.mark.parametrize("seconds", [0.011, 0.023, 0.041, 0.072])
def test_killed_at_any_time(tmp_path: Path, seconds: float) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", LOOP], cwd=tmp_path, env=environment, stdout=subprocess.PIPE) as loop:
        assert loop.stdout is not None
        loop.stdout.readline()
        time.sleep(seconds)
        loop.kill()
        said = [1, *map(int, loop.stdout.read().split())][-1]
    recover_folder(tmp_path / "place")
    a, b = ((tmp_path / "place" / name).read_text() for name in "ab")
    assert a == b
    assert said <= int(a) <= said + 1


def test_a_failed_check_changes_nothing(tmp_path: Path) -> None:
    place = folder(tmp_path / "place", "old")
    calls = iter([False, True])

    def check() -> None:
        if next(calls):
            raise UserError("no")

    with pytest.raises(UserError), whole_folder(place, check) as new:
        (new / "text").write_text("new")
    assert (place / "text").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["place"]
