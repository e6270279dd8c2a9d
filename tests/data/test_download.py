"""Datasets that RecBole publishes are fetched as RecBole does it, from a server on this machine."""

import http.server
import socket
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from recbole.data.dataset import Dataset
from recbole.quick_start import run_recbole

from dataset_tools.common import run_cli
from recbole_unisrec.cli import train_command
from recbole_unisrec.data.download import fetch_dataset, published_url
from recbole_unisrec.errors import UserError
from tests.conftest import N_ITEMS, write_ring


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server with ``Ring_Set.zip``, in which the files have another name than the dataset; RecBole knows it as ring."""
    made = write_ring(tmp_path / "made")
    colours, things = ("red", "blue", "green", "black"), ("chair", "lamp", "desk", "kettle", "shelf", "rug")
    titles = [f"item-{i}\t{colours[i % 4]} {things[i // 4]}" for i in range(N_ITEMS)]
    (made / "ring.item").write_text("\n".join(["item_id:token\ttitle:token_seq", *titles]) + "\n")
    (tmp_path / "www").mkdir()
    with zipfile.ZipFile(tmp_path / "www" / "Ring_Set.zip", "w") as archive:
        for kind in ("inter", "item"):
            archive.write(made / f"ring.{kind}", f"Ring_Set.{kind}")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "www")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/Ring_Set.zip"
    monkeypatch.setattr(
        Dataset, "_get_download_url", lambda self, file, allow_none=False: url if self.dataset_name == "ring" else None
    )
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("sys.argv", ["test"])
    yield url
    server.shutdown()
    server.server_close()


def test_recbole_knows_where_they_are() -> None:
    assert str(published_url("ml-1m")).endswith("ml-1m.zip")
    assert published_url("myshop") is None


def test_the_command_downloads_encodes_and_trains(
    address: str, small: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [f"--{k}={v}" for k, v in {**small, "epochs": 1}.items()]
    assert run_cli(train_command, ["--dataset", "ring", "--encode", "--encoder", "lsa", *settings]) == 0
    assert f"ring is not in dataset; downloading it from {address}" in capsys.readouterr().out
    names = sorted(path.name for path in Path("dataset/ring").iterdir() if "feat1" not in path.name)
    assert {"ring.inter", "ring.item"} <= set(names)
    assert not [name for name in names if name.endswith(".zip")]


@pytest.mark.parametrize("model", ["SASRecPacked", "UniSRec"])
def test_so_does_recboles_own_function(address: str, small: dict[str, Any], model: str) -> None:
    if model == "UniSRec":
        with pytest.raises(UserError, match="no text features"):  # the texts are there now
            run_recbole(model=model, dataset="ring", config_dict={**small, "epochs": 1})
    else:
        run_recbole(model=model, dataset="ring", config_dict={**small, "epochs": 1})
    assert Path("dataset/ring/ring.inter").is_file()


def test_without_a_network_it_is_one_sentence_and_nothing_is_left(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}/x.zip"
    monkeypatch.setattr(Dataset, "_get_download_url", lambda *_, **__: nobody)
    assert run_cli(train_command, ["--dataset", "ring"]) == 1
    error = capsys.readouterr().err
    assert "could not be downloaded" in error
    assert "connect to the network" in error
    assert len(error.strip().splitlines()) == 1
    assert not any(Path("dataset").iterdir()) if Path("dataset").exists() else True


def test_what_is_no_archive_is_said(address: str, tmp_path: Path) -> None:
    (tmp_path / "www" / "Ring_Set.zip").write_bytes(b"<html>moved</html>")
    with pytest.raises(UserError, match="could not be downloaded"):
        fetch_dataset(Path("dataset/ring"), "ring")
    assert not Path("dataset/ring").exists()


def test_a_name_that_nobody_publishes_gets_the_command_that_prepares_it(address: str) -> None:
    with pytest.raises(UserError, match=r"dataset_tools\.custom"):
        fetch_dataset(Path("dataset/myshop"), "myshop")
