"""Everything that is to be known about one GPU, in one run of some ten minutes, results written as they come.

    python benchmarks/bench_gpu.py --data_path dataset --authors ../UniSRec --out gpu.jsonl

Each part is a process of its own with a limit of seconds, so that one that fails or hangs costs the others nothing. A line
of OUT is one result; a table stands at the end. ``--cpu`` runs the same on a CPU, to try the script: its figures say
nothing about a GPU.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

# part -> limit of seconds
PARTS = {
    "losses": 60,
    "step": 240,
    "authors": 75,
    "batch": 75,
    "evaluation": 50,
    "sampled": 40,
    "pretrain": 75,
    "run": 75,
}
BATCHES = (2048, 8192, 32_768, 131_072)
EVALUATED = 200_000  # users to rank, the same ones again and again


def prepared(options: argparse.Namespace, **settings: Any) -> tuple[Any, Any, Any, Any]:
    """Loaders, trainer and the test pairs of the inductive model."""
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_trainer, init_seed

    from recbole_unisrec.memory import keep_freed_memory
    from recbole_unisrec.settings import build_config, model_class

    keep_freed_memory()
    config = build_config("UniSRec", options.dataset, [], {
        "train_stage": "inductive_ft", "data_path": options.data_path, "show_progress": False,
        "checkpoint_dir": options.scratch, "use_gpu": not options.cpu, **settings,
    })  # fmt: skip
    init_seed(config["seed"], reproducibility=False)
    train, _, test = data_preparation(config, create_dataset(config))
    model = model_class("UniSRec")(config, train._dataset).to(config["device"])
    return train, get_trainer(config["MODEL_TYPE"], "UniSRec")(config, model), test._dataset.pairs, config


def wait(options: argparse.Namespace) -> None:
    import torch

    if not options.cpu:
        torch.cuda.synchronize()


class Calls:
    """In the place of CUDA graphs on a CPU."""

    def run(self, step: Any) -> None:
        step()

    def record(self, step: Any) -> Any:
        return step


def stepper(options: argparse.Namespace, train: Any, trainer: Any, graphs: bool) -> Any:
    """A function that does the next step, epoch after epoch."""
    import torch

    from recbole_unisrec.data.ahead import ahead
    from recbole_unisrec.data.fixed import FixedPlan
    from recbole_unisrec.graphs import GraphedEpochs

    trainer.model.train()
    if not graphs:
        batches = itertools.chain.from_iterable(ahead(train, trainer.device) for _ in itertools.count())
        total = torch.zeros((), device=trainer.device)

        def plain() -> Any:
            batch = next(batches).to(trainer.device)
            trainer.optimizer.zero_grad(set_to_none=True)
            with trainer.autocast():
                loss = trainer.model.calculate_loss(batch)
            loss.backward()
            trainer.move_weights()
            total.add_(loss.detach())
            return total

        return plain
    plan = FixedPlan(train, trainer.device)
    recorder = Calls() if options.cpu else trainer.recorder()
    said: list[str] = []
    run = GraphedEpochs(trainer, plan, recorder, said.append)
    steps = itertools.chain.from_iterable(enumerate(plan.epoch(epoch)) for epoch in itertools.count())

    def graphed() -> Any:
        number, shape = next(steps)
        plan.choose(number)
        run.steps(shape)
        if said:
            raise RuntimeError(said[0])
        return run.total

    return graphed


def timed(options: argparse.Namespace, step: Any, warm: int = 10) -> float:
    """Seconds of a step: the median of rounds of steps that are waited for together."""
    for _ in range(1 if options.cpu else warm):
        step()
    rounds, each = (2, 1) if options.cpu else (5, options.steps)
    found = []
    for _ in range(rounds):
        wait(options)
        started = time.perf_counter()
        for _ in range(each):
            step()
        wait(options)
        found.append((time.perf_counter() - started) / each)
    return statistics.median(found)


def busy(options: argparse.Namespace, step: Any, seconds: float) -> dict[str, float]:
    """Kernels of a step, and the share of its time in which the GPU works."""
    import torch

    if options.cpu:
        return {}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(10):
            step()
        wait(options)
    kernels = [event for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    time_s = sum(event.device_time_total for event in kernels) / 1e6 / 10
    return {"kernels": len(kernels) / 10, "gpu_seconds": time_s, "busy": time_s / seconds}


def part_losses(options: argparse.Namespace) -> None:
    """Losses of both ways over 50 steps, without dropout."""
    off = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "adaptor_dropout_prob": 0.0, "gate_noise": False}
    curves = []
    for graphs in (False, True):
        train, trainer, _, _ = prepared(options, **off)
        step, sums = stepper(options, train, trainer, graphs), [0.0]
        for _ in range(4 if options.cpu else 50):
            sums.append(float(step()))
        curves.append([after - before for before, after in itertools.pairwise(sums)])
    emit(part="losses", steps=len(curves[0]), plain=curves[0], graphs=curves[1],
         largest_difference=max(abs(a - b) for a, b in zip(*curves, strict=True)))  # fmt: skip


def part_step(options: argparse.Namespace) -> None:
    """A step of 2,048 pairs: recorded, launched one by one and compiled, the paper's model and the recipe."""
    from recbole_unisrec.settings import recipe

    for name, settings in (("paper", {}), ("recipe", recipe("ours"))):
        for precision in ("bf16", "fp32"):
            for way in ("auto", "off", *(["compiled"] if precision == "bf16" else [])):
                train, trainer, _, _ = prepared(options, precision=precision, graphs=way, **settings)
                step = stepper(options, train, trainer, way != "off")
                seconds = timed(options, step)
                emit(part="step", model=name, precision=precision, graphs=way, seconds=seconds,
                     pairs=train.n_pairs / len(train) / seconds, **busy(options, step, seconds))  # fmt: skip


def part_authors(options: argparse.Namespace) -> None:
    """The authors' code as shipped and tuned, by `bench_training.py`."""
    if not options.authors:
        emit(part="authors", skipped="no --authors")
        return
    slow, steps = ("1", "2") if options.cpu else ("5", "20")
    command = [str(ROOT / "benchmarks" / "bench_training.py"), "--data_path", options.data_path, "--dataset", options.dataset,
               "--authors", options.authors, "--slow_steps", slow, "--steps", steps, "--stages", "inductive",
               *([] if options.cpu else ["--gpu"])]  # fmt: skip
    emit(part="authors", text=printed(command))


def part_batch(options: argparse.Namespace) -> None:
    """Pairs a second by the size of the batch. Which of them keeps the quality takes training to the end."""
    for batch in BATCHES[:1] if options.cpu else BATCHES:
        train, trainer, _, _ = prepared(options, precision="bf16", train_batch_size=batch)
        seconds = timed(options, stepper(options, train, trainer, graphs=True))
        emit(part="batch", batch=batch, seconds=seconds, pairs=train.n_pairs / len(train) / seconds)


def part_evaluation(options: argparse.Namespace) -> None:
    """Users ranked a second among all items."""
    import torch

    for precision in ("bf16", "fp32"):
        _, trainer, pairs, _ = prepared(options, precision=precision)
        n = 500 if options.cpu else EVALUATED
        index = torch.arange(n) % len(pairs)
        many = type(pairs)(pairs.items, pairs.user[index], pairs.start[index], pairs.target[index])
        trainer.ranks(many)
        wait(options)
        started = time.perf_counter()
        trainer.ranks(many)
        seconds = time.perf_counter() - started
        emit(part="evaluation", precision=precision, users=n, users_per_second=n / seconds)


def part_sampled(options: argparse.Namespace) -> None:
    """A step of a loss over a sample."""
    for loss in ("sampled", "gbce"):
        train, trainer, _, _ = prepared(options, precision="bf16", loss=loss)
        for graphs in (True, False):
            seconds = timed(options, stepper(options, train, trainer, graphs))
            emit(part="sampled", loss=loss, graphs=graphs, seconds=seconds, pairs=train.n_pairs / len(train) / seconds)


def part_pretrain(options: argparse.Namespace) -> None:
    """Steps of pre-training, by `bench_pretrain.py`."""
    command = [str(ROOT / "benchmarks" / "bench_pretrain.py"), "--graphs", "--steps", "2" if options.cpu else "10",
               *(["--batch", "64", "--items", "600"] if options.cpu else ["--batch", "2048", "--gpu"]),
               *(["--authors", options.authors] if options.authors else [])]  # fmt: skip
    emit(part="pretrain", text=printed(command))


def part_run(options: argparse.Namespace) -> None:
    """A row of the leaderboard over five seeds, from the start to the table."""
    started = time.perf_counter()
    out = Path(options.scratch) / "leaderboard"
    shutil.rmtree(out, ignore_errors=True)  # runs that it holds would not be made again
    command = [str(ROOT / "run_unisrec.py"), "--leaderboard", "--dataset", options.dataset, "--models", "UniSRec-inductive",
               "--no-tuning", "--seeds", "1" if options.cpu else "5", f"--data_path={options.data_path}", "--precision=bf16",
               "--out", str(out), *(["--epochs=1", "--use_gpu=False"] if options.cpu else [])]  # fmt: skip
    emit(part="run", text=printed(command)[-1500:], seconds=time.perf_counter() - started)


def printed(command: list[str]) -> str:
    """What a Python script prints; the last line of its errors if it fails."""
    found = subprocess.run([sys.executable, "-W", "ignore", *command], capture_output=True, text=True)
    if found.returncode:
        lines = found.stderr.strip().splitlines() or ["no error was printed"]
        raise SystemExit(f"{Path(command[0]).name}: {lines[-1]}")
    return found.stdout


def emit(**result: Any) -> None:
    print("RESULT " + json.dumps(result), flush=True)


def table(results: list[dict[str, Any]]) -> str:
    """The results of which there are several, in rows."""
    lines = []
    for part in dict.fromkeys(r["part"] for r in results):
        rows = [{k: v for k, v in r.items() if isinstance(v, int | float | str) and k not in ("part", "text")} for r in results
                if r["part"] == part]  # fmt: skip
        names = list(dict.fromkeys(name for row in rows for name in row))
        if not names:
            continue
        cells = [
            [f"{row.get(n, ''):.4g}" if isinstance(row.get(n), float) else str(row.get(n, "")) for n in names]
            for row in rows
        ]
        lines += [
            f"\n**{part}**\n",
            f"| {' | '.join(names)} |",
            "|" + "---|" * len(names),
            *(f"| {' | '.join(c)} |" for c in cells),
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="Scientific")
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--authors", help="checkout of the authors' repository")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--steps", type=int, default=50, help="steps that are waited for together")
    parser.add_argument("--out", type=Path, default=Path("gpu.jsonl"))
    parser.add_argument("--cpu", action="store_true", help="try the script without a GPU")
    parser.add_argument("--limit", type=float, default=1.0, help="times the seconds that each part may take")
    parser.add_argument("--scratch", default="/tmp/bench_gpu", help=argparse.SUPPRESS)
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        globals()[f"part_{options.part}"](options)
        return
    results: list[dict[str, Any]] = []

    def keep(result: dict[str, Any]) -> None:
        results.append(result)
        with open(options.out, "a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        shown = {k: v for k, v in result.items() if k not in ("plain", "graphs") or not isinstance(v, list)}
        print(json.dumps(shown), flush=True)

    for part in options.parts:
        started, limit = time.perf_counter(), PARTS[part] * options.limit
        command = [sys.executable, "-W", "ignore", *sys.argv, "--part", part]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        ) as child:
            try:
                text, errors = child.communicate(timeout=limit)
                failed = errors.strip().splitlines()[-1:] if child.returncode else []
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)  # and what it has started
                text, _ = child.communicate()
                failed = [f"stopped after {limit:.0f} s"]
        for line in text.splitlines():
            if line.startswith("RESULT "):
                keep(json.loads(line.removeprefix("RESULT ")))
        if failed:
            keep({"part": part, "failed": failed[0], "after": time.perf_counter() - started})
    print(table(results))


if __name__ == "__main__":
    main()
