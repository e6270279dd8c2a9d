"""Fine-tuning by two processes gives the weights of one; a process that dies takes the others with it, by name."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from dataset_tools.common import run_cli
from recbole_unisrec import quick_start
from recbole_unisrec.cli import train_command
from recbole_unisrec.compat import safe_torch_load
from recbole_unisrec.settings import build_config
from recbole_unisrec.watch import Watch
from tests.conftest import SMALL, write_ring

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
TORCHRUN = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
EXACT = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "gate_noise": False, "epochs": 3, "learning_rate": 1e-3,
         "train_batch_size": 100}  # fmt: skip


VARIANTS: list[dict[str, Any]] = [
    {"train_stage": "transductive_ft", "ema_decay": 0.9},
    {"train_stage": "transductive_ft", "loss": "sampled", "negatives": "uniform+batch", "n_negatives": 8,
     "item_optimizer": "rows", "history_bias": True},
]  # fmt: skip
COMMANDS = """
import json, sys
from dataset_tools.common import run_cli
from recbole_unisrec.cli import train_command
for arguments in json.loads(sys.argv[1]):
    assert run_cli(train_command, arguments) == 0
"""


def command(model: str, settings: dict[str, Any]) -> list[str]:
    return ["--model", model, "--dataset", "ring", *(f"--{name}={value}" for name, value in settings.items())]


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder in which two processes have trained all variants, one after the other, and what they printed."""
    folder = tmp_path_factory.mktemp("together")
    write_ring(folder / "dataset")
    (folder / "commands.py").write_text(COMMANDS)
    runs = [
        command("UniSRec", {**SMALL, **EXACT, **own, "backend": "gloo", "checkpoint_dir": f"two-{number}"})
        for number, own in enumerate(VARIANTS)
    ]
    done = subprocess.run(
        [*TORCHRUN, "commands.py", json.dumps(runs)], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True,
        timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr  # the cause stands first, what torchrun says of it last
    return folder, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(VARIANTS)))
def test_two_processes_equal_one(by_two: tuple[Path, str], number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, printed = by_two
    monkeypatch.chdir(folder)
    settings = {**SMALL, **EXACT, **VARIANTS[number], "checkpoint_dir": f"one-{number}"}
    one = quick_start.train(build_config("UniSRec", "ring", [], settings))
    assert printed.count("epoch   0") == len(VARIANTS)  # the first process alone prints
    (checkpoint,) = Path(f"two-{number}").glob("**/*.pth")
    expected = safe_torch_load(one.checkpoint, map_location="cpu")["state_dict"]
    found = safe_torch_load(str(checkpoint), map_location="cpu")["state_dict"]
    for name, tensor in expected.items():
        if not name.endswith("key.bias"):  # its gradient is rounding alone
            torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=2e-5, msg=name)
    (beside,) = (p for p in Path(f"two-{number}").glob("**/*.json"))
    assert json.loads(beside.read_text())["test"] == pytest.approx(one.test, abs=1e-3)


@pytest.mark.usefixtures("ring")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "SASRec", "--dataset", "ring", "--epochs", "1"], "SASRec trains in one process"),
        (["--leaderboard", "--dataset", "ring"], "starts its own processes"),
    ],
)
def test_what_does_not_go_with_several_processes(
    arguments: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    assert run_cli(train_command, arguments) == 1
    assert sentence in capsys.readouterr().err


# one process imports torch, and forks those that work: `start` gives a process id, `wait` what the process ended with
SCRIPT = """
import os, sys, time, torch, torch.distributed
from dataset_tools.common import run_cli
from recbole_unisrec import distributed, watch
watch.Watch.__init__.__defaults__ = (0.5, 6.0)
def work(arguments):
    with distributed.running("gloo") as world:
        print("ready", flush=True)
        while True:
            if arguments == ["together"]:
                torch.distributed.all_reduce(torch.ones(1))
            time.sleep(0.05)
for line in sys.stdin:
    order, *rest = line.split()
    if order == "wait":
        print(os.waitstatus_to_exitcode(os.waitpid(int(rest[0]), 0)[1]), flush=True)
        continue
    what, rank, port, file = rest
    child = os.fork()
    if not child:
        os.environ.update(WORLD_SIZE="2", RANK=rank, LOCAL_RANK=rank, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        out = os.open(file, os.O_WRONLY | os.O_CREAT)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.exit(run_cli(work, [what]))
    print(child, flush=True)
"""


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], int]]:
    """Sends one order to the process that forks; gives its answer."""
    script = tmp_path_factory.mktemp("forks") / "forks.py"
    script.write_text(SCRIPT)
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", str(script)], env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    ) as process:  # fmt: skip

        def order(words: str) -> int:
            assert process.stdin is not None
            assert process.stdout is not None
            print(words, file=process.stdin, flush=True)
            return int(process.stdout.readline())

        yield order


@pytest.mark.parametrize(("what", "victim"), [("together", 0), ("together", 1), ("apart", 1)])
def test_a_process_that_dies_is_named_and_the_other_ends(
    tmp_path: Path, forks: Callable[[str], int], what: str, victim: int
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    files = [tmp_path / f"{rank}.txt" for rank in range(2)]
    processes = [forks(f"start {what} {rank} {port} {file}") for rank, file in enumerate(files)]
    ended = set()
    try:
        deadline = time.monotonic() + 120
        while not all(file.is_file() and file.read_text() == "ready\n" for file in files):
            assert time.monotonic() < deadline, [file.read_text() for file in files if file.is_file()]
            time.sleep(0.02)
        time.sleep(2)  # some signs of life
        os.kill(processes[victim], signal.SIGKILL)
        code = forks(f"wait {processes[1 - victim]}")
        ended.add(processes[1 - victim])
        assert code not in (0, -signal.SIGKILL)
        said = files[1 - victim].read_text()
        assert "has died" in said
        assert ("rank 0" if victim == 0 else "process 1 of 2") in said
        assert "Traceback" not in said
    finally:
        for process in {*processes} - ended:
            os.kill(process, signal.SIGKILL)
            forks(f"wait {process}")


def test_what_a_group_left_in_the_store_is_no_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(server.port))
    Watch(1, 2, "first", beat=0.05).stop()  # says that it ended as it should
    watch = Watch(0, 2, "second", beat=2.0, silence=1.0)
    assert watch.who_died() == "process 1 of 2 has died, so process 0 ends too; start the run again"
    watch.stop()
