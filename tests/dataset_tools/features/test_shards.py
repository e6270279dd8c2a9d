import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dataset_tools.features import TextEncoder, encode_dataset, store
from dataset_tools.features.encoder import TOKEN_BUDGET
from dataset_tools.features.ranks import Ranks
from dataset_tools.features.shards import encode_shards
from tests.dataset_tools.features.conftest import make_dataset

pytestmark = pytest.mark.hardware

ROOT = Path(__file__).resolve().parents[3]


def test_killed_run_goes_on(bert: str, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TOKEN_BUDGET, "cpu", 64)
    whole = encode_dataset(make_dataset(tmp_path / "whole", texts), "toy", encoder=bert, progress=False).read_bytes()
    folder = make_dataset(tmp_path / "toy", texts)
    embed, calls = TextEncoder._embed, []

    def until(limit: int) -> None:
        def step(self: TextEncoder, *args: object) -> np.ndarray:
            if len(calls) == limit:
                raise KeyboardInterrupt
            calls.append(args)
            return embed(self, *args)  # type: ignore[arg-type]

        monkeypatch.setattr(TextEncoder, "_embed", step)

    until(7)
    with pytest.raises(KeyboardInterrupt):
        encode_dataset(folder, "toy", encoder=bert, progress=False)
    assert not (folder / "toy.feat1CLS").exists()
    saved = len(list((folder / ".toy.feat1CLS.parts").glob("*.npy")))
    assert 0 < saved <= 7
    calls.clear()
    until(-1)
    path = encode_dataset(folder, "toy", encoder=bert, progress=False)
    n_batches = len(TextEncoder.load(bert, device="cpu").tokenize(texts).batches)
    assert 0 < len(calls) < n_batches
    assert path.read_bytes() == whole
    assert not (folder / ".toy.feat1CLS.parts").exists()


def test_shards_of_other_settings_are_not_used(
    bert: str, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = encode_dataset(make_dataset(tmp_path / "whole", texts), "toy", encoder=bert, progress=False).read_bytes()
    folder = make_dataset(tmp_path / "toy", texts)
    assemble = store.assemble

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "assemble", fail)
    with pytest.raises(KeyboardInterrupt):
        encode_dataset(folder, "toy", encoder=bert, prompt="query: ", progress=False)
    assert list((folder / ".toy.feat1CLS.parts").glob("*.npy"))
    monkeypatch.setattr(store, "assemble", assemble)
    assert encode_dataset(folder, "toy", encoder=bert, progress=False).read_bytes() == whole


def test_two_processes_write_the_bytes_of_one(bert: str, texts: list[str], tmp_path: Path) -> None:
    one, two = (make_dataset(tmp_path / name, texts * 3) for name in ("one", "two"))
    encode_dataset(one, "toy", encoder=bert, progress=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # what torchrun sets
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "dataset_tools.features", str(two), "--name", "toy", "--encoder", bert]
    processes = []
    for rank in ("0", "1"):
        environment = {**os.environ, **group, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "RANK": rank}
        environment["LOCAL_RANK"] = rank
        processes.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    said = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert ["items, width 32" in out for out, _ in said] == [True, False]
    for file in ("toy.feat1CLS", "toy.feat1CLS.json", "toy.item2index"):
        assert (one / file).read_bytes() == (two / file).read_bytes()
    assert not [path for path in two.iterdir() if path.name.startswith(".")]


def test_ranks_share_the_shards(bert: str, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TOKEN_BUDGET, "cpu", 64)
    model = TextEncoder.load(bert, device="cpu")
    tokens = model.tokenize(texts)
    written = []
    for rank in range(3):
        ranks = Ranks()
        ranks.rank, ranks.size = rank, 3
        parts = tmp_path / str(rank)
        encode_shards(model, tokens, parts, ranks, False)
        written.append({path.name for path in parts.glob("*.npy")})
    assert all(written)
    assert sum(map(len, written)) == len(set.union(*written)) == len(tokens.shards())
