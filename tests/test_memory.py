import sys

import pytest

from recbole_unisrec.memory import keep_freed_memory, peak_memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_glibc_takes_the_settings() -> None:
    assert keep_freed_memory()


def test_peak_grows_with_use() -> None:
    before = peak_memory()
    block = bytearray(before + 64 * 2**20)
    block[::4096] = b"x" * len(block[::4096])
    assert peak_memory() > before
