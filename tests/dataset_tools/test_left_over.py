"""What killed writers left goes with the next write of the same name, a day later; nothing else does."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from dataset_tools.common import atomic_path, run_cli, whole_folder, write_text
from dataset_tools.left_over import DAY
from recbole_unisrec.checkpoint import save_checkpoint


def aged(path: Path, seconds: float) -> Path:
    os.utime(path, (time.time() - seconds,) * 2)
    return path


def left(folder: Path, name: str, seconds: float) -> Path:
    (folder / name).mkdir()
    (folder / name / "half").write_text("half")
    aged(folder / name / "half", seconds)
    return aged(folder / name, seconds)


def test_a_write_removes_what_is_a_day_old(tmp_path: Path) -> None:
    gone, young, other, hidden = (
        tmp_path / n for n in (".a.txt.x1.tmp", ".a.txt.x2.tmp", ".b.txt.x.tmp", ".a.txt.keep")
    )
    for path in (gone, young, other, hidden):
        path.write_text("half")
    for path in (gone, other, hidden):
        aged(path, DAY + 60)
    aged(young, DAY - 60)
    write_text(tmp_path / "a.txt", "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.txt.keep", ".a.txt.x2.tmp", ".b.txt.x.tmp", "a.txt"]


def test_a_folder_somebody_writes_into_stays(tmp_path: Path) -> None:
    gone, used = left(tmp_path, ".set.x1.tmp", 2 * DAY), left(tmp_path, ".set.x2.tmp", 2 * DAY)
    aged(used / "half", 60)
    with whole_folder(tmp_path / "set", lambda: None) as fresh:
        (fresh / "new").write_text("whole")
    assert not gone.exists()
    assert (used / "half").is_file()
    assert (tmp_path / "set" / "new").is_file()


def test_sigterm_leaves_nothing_behind(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def command(arguments: list[str]) -> None:
        with atomic_path(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit) as stopped:
            run_cli(command, [])
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)
    assert stopped.value.code == 143
    assert not list(tmp_path.iterdir())


def test_checkpoints_of_a_killed_run_go(tmp_path: Path) -> None:
    gone = left(tmp_path, ".step-00000010.x1.tmp", 2 * DAY)
    best = left(tmp_path, ".best.x1.tmp", 2 * DAY)
    save_checkpoint(tmp_path / "step-00000020", {"w": torch.zeros(1)}, {})
    assert not gone.exists()
    assert best.exists()
