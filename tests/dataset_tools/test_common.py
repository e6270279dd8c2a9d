"""What every tool needs: a look, before the work, at whether its folder can be written."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dataset_tools.common import UserError, check_writable


def test_many_look_at_one_folder_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "saved" / "run"
    with ThreadPoolExecutor(8) as pool:
        for looked in [pool.submit(check_writable, folder, "set checkpoint_dir") for _ in range(400)]:
            looked.result()
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"cannot write to /proc/none: .*; choose another --out"):
        check_writable("/proc/none", "choose another --out")
