"""Load test of the HTTP service on loopback: requests a second, p50 and p99 latency, errors.

    python benchmarks/bench_service.py --model models/myshop --clients 1 8 32 --seconds 10

Starts `unisrec serve` in a process of its own, on a free port of 127.0.0.1. Each client has one connection and sends
the next POST /recommend when the answer to the last one is there; histories are random items of the catalogue. With
--changes another client replaces a pair of items of equal text all the while; it counts as torn an answer in which
the two have different scores, or that holds an item twice. The clients share the two cores with the service.

With --writers so many more clients add new items all the while, two a request, each a text that the language model
encodes; each row is measured without them and then with them. A writer that is told to wait (503) does, and asks again.

With --update so many clients ask while `unisrec update` replaces the model beneath the service:

    python benchmarks/bench_service.py --model myshop/model --clients 8 --update "--shop myshop --orders new.csv"

Three more rows then tell of the requests before the update, while it learns, and within a second of the answer that
came first from the new model.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from dataset_tools.common import UserError, run_cli  # noqa: E402

HEAD = "{} {} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"


class Connection:
    """A keep-alive connection that knows just enough HTTP to measure."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> Connection:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        data = b"" if body is None else json.dumps(body).encode()
        self.writer.write(HEAD.format(method, path, len(data)).encode() + data)
        head = await self.reader.readuntil(b"\r\n\r\n")
        status = int(head[9:12])
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        return status, await self.reader.readexactly(length)


async def client(
    port: int,
    ids: list[str],
    going: Callable[[], bool],
    seed: int,
    seconds: list[float],
    wrong: list[int],
    heard: list[tuple[float, int]] | None = None,
) -> None:
    """Ask until the time is over; latencies go to `seconds`; errors and torn answers are counted in `wrong`.

    `heard` takes the time of each answer, and the version of the catalogue that it came from.
    """
    rng = np.random.default_rng(seed)
    connection = await Connection.open(port)
    while going():
        history = [ids[i] for i in rng.integers(len(ids), size=1 + int(rng.geometric(0.2)))]
        started = time.perf_counter()
        asked = connection.ask("POST", "/recommend", {"history": history, "k": 10})
        try:
            status, body = await asyncio.wait_for(asked, 70)
        except TimeoutError:
            seconds.append(70.0)
            wrong[0] += 1
            break
        seconds.append(time.perf_counter() - started)
        answer = json.loads(body) if status == 200 else {"items": [], "version": -1}
        if heard is not None:
            heard.append((time.perf_counter(), answer["version"]))
        if status != 200:
            wrong[0] += 1
            continue
        items = answer["items"]
        scores = {item["item_id"]: item["score"] for item in items}
        pair = [scores[name] for name in ("twin-a", "twin-b") if name in scores]
        if len(scores) < len(items) or (len(pair) == 2 and abs(pair[0] - pair[1]) > 1e-5):
            wrong[1] += 1
    connection.writer.close()


async def changer(port: int, text: str, stop: float, counts: list[int]) -> None:
    """Replace two items of equal text again and again."""
    connection = await Connection.open(port)
    while time.perf_counter() < stop:
        pair = [{"item_id": name, "text": f"{text} {counts[0]}"} for name in ("twin-a", "twin-b")]
        status, _ = await connection.ask("POST", "/items", {"items": pair, "replace": True})
        counts[0] += 1
        counts[1] += status != 201
    connection.writer.close()


async def writer(port: int, words: list[str], stop: float, seed: int, counts: list[int]) -> None:
    """Add new items again and again; `counts` are added items and refusals."""
    rng = np.random.default_rng(seed)
    connection = await Connection.open(port)
    number = 0
    while time.perf_counter() < stop:
        items = []
        for _ in range(2):
            number += 1
            text = " ".join(words[i] for i in rng.integers(len(words), size=60))
            items.append({"item_id": f"new-{seed}-{number}-{stop:.0f}", "text": text})
        left = stop + 300 - time.perf_counter()
        status, _ = await asyncio.wait_for(connection.ask("POST", "/items", {"items": items}), left)
        if status == 201:
            counts[0] += len(items)
        else:
            counts[1] += 1
            await asyncio.sleep(1)
    connection.writer.close()


async def some_items(connection: Connection) -> list[str]:
    """Ids of items of the catalogue, for histories."""
    ids: list[str] = []
    for word in "aeiou":
        _, body = await connection.ask("GET", f"/items?limit=100&q={word}")
        ids += [item["item_id"] for item in json.loads(body)["items"] if not item["item_id"].startswith("twin-")]
    return ids


async def while_updating(port: int, n_clients: int, duration: float, update: list[str]) -> list[str]:
    """Ask for `duration` seconds, then while a command runs, then as long again; the rows of the table."""
    connection = await Connection.open(port)
    ids = await some_items(connection)
    connection.writer.close()
    over = False
    seconds: list[float] = []
    heard: list[tuple[float, int]] = []
    wrong = [0, 0]
    tasks = [
        asyncio.create_task(client(port, ids, lambda: not over, seed, seconds, wrong, heard))
        for seed in range(n_clients)
    ]
    await asyncio.sleep(duration)
    begun = time.perf_counter()
    process = await asyncio.create_subprocess_exec(*update)
    status = await process.wait()
    ended = time.perf_counter()
    await asyncio.sleep(max(duration, 10))
    over = True
    await asyncio.gather(*tasks)
    times, versions, took = np.array([h[0] for h in heard]), np.array([h[1] for h in heard]), np.array(seconds)
    first = versions[times < begun].max()
    new = times[versions > first]
    print(
        f"update ended with status {status} after {ended - begun:.0f} s; errors: {wrong[0]}, torn answers: {wrong[1]}"
    )
    if not len(new):
        raise UserError("the service did not take another model over; did the update change anything?")
    swapped = new.min()
    parts = {
        "before the update": times < begun,
        "while it runs": (times >= begun) & (times < ended),
        "within a second of the new model's first answer": np.abs(times - swapped) < 1,
    }
    print("| requests | number | p50 ms | p99 ms | longest ms |\n|---|---:|---:|---:|---:|")
    rows = []
    for name, mask in parts.items():
        p50, p99, longest = np.quantile(took[mask], [0.5, 0.99, 1]) * 1e3
        rows.append(f"| {name} | {mask.sum():,} | {p50:.1f} | {p99:.1f} | {longest:.1f} |")
    return rows


async def phase(port: int, n_clients: int, duration: float, changes: bool, writers: int = 0) -> tuple[str, float]:
    """One row of the table, and its p99."""
    connection = await Connection.open(port)
    ids = await some_items(connection)
    _, body = await connection.ask("GET", "/items?limit=1")
    text = json.loads(body)["items"][0]["title"]
    _, body = await connection.ask("GET", "/items?limit=100")
    words = sorted({word for item in json.loads(body)["items"] for word in item["title"].split()})
    seconds: list[float] = []
    wrong, counts = [0, 0], [0, 0]
    lead = 2.0 if writers else 0.0  # until all writers wait
    stop = time.perf_counter() + lead + duration
    tasks = [client(port, ids, lambda: time.perf_counter() < stop, seed, seconds, wrong) for seed in range(n_clients)]
    if changes:
        tasks.append(changer(port, text, stop, counts))
    added = [0, 0]
    adding = [asyncio.create_task(writer(port, words, stop, seed, added)) for seed in range(writers)]
    await asyncio.sleep(lead)
    started = time.perf_counter()
    await asyncio.gather(*tasks)
    passed = time.perf_counter() - started
    await asyncio.gather(*adding)
    connection.writer.close()
    p50, p99 = np.quantile(seconds, [0.5, 0.99]) * 1e3
    cells = [
        n_clients,
        f"{len(seconds) / passed:,.0f}",
        f"{p50:.1f}",
        f"{p99:.1f}",
        wrong[0] + counts[1],
        counts[0],
        wrong[1],
    ]
    if writers:
        cells += [writers, added[0], added[1]]
    return "| " + " | ".join(map(str, cells)) + " |", float(p99)


def main(arguments: list[str]) -> None:
    """The command line; see ``--help``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="saved model or checkpoint")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32], help="default: 1 8 32")
    parser.add_argument("--seconds", type=float, default=10, help="of each row, at most 60 (default: %(default)s)")
    parser.add_argument("--changes", action="store_true", help="change items meanwhile (needs the encoder)")
    parser.add_argument("--writers", type=int, default=0, help="clients that add items meanwhile (needs the encoder)")
    parser.add_argument("--options", default="", help="further options of `unisrec serve`, in one argument")
    parser.add_argument("--update", default="", help="options of `unisrec update`, in one argument; with one --clients")
    args = parser.parse_args(arguments)
    if not 0 < args.seconds <= 60 or max(args.clients) > 256:
        raise UserError("at most 60 seconds a row and 256 clients")
    if args.update and len(args.clients) > 1:
        raise UserError("--update goes with one number of --clients")
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from recbole_unisrec.cli import main; sys.exit(main())"
    unisrec = [sys.executable, "-W", "ignore", "-c", code]
    command = [*unisrec, "serve", "--model", str(args.model), "--port", "0", "--access_log", "none"]
    command += shlex.split(args.options)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            if "http://127.0.0.1:" not in line:
                raise UserError("the service did not start; see its message above")
            port = int(line.partition("http://127.0.0.1:")[2].partition("/")[0])
            print(line.strip() + "\n")
            # the first requests pay for kernels and the encoder
            asyncio.run(phase(port, 2, 1.0, args.changes, writers=min(1, args.writers)))
            if args.update:
                update = [*unisrec, "update", "--quiet", *shlex.split(args.update)]
                print("\n".join(asyncio.run(while_updating(port, args.clients[0], args.seconds, update))))
                return
            more = " writers | items added | told to wait |" if args.writers else ""
            print("| clients | requests/s | p50 ms | p99 ms | errors | changes | torn answers |" + more)
            print("|---:|---:|---:|---:|---:|---:|---:|" + "---:|---:|---:|" * bool(more))
            for n_clients in args.clients:
                row, alone = asyncio.run(phase(port, n_clients, args.seconds, args.changes))
                print(row + " 0 | 0 | 0 |" * bool(more), flush=True)
                if args.writers:
                    row, busy = asyncio.run(phase(port, n_clients, args.seconds, args.changes, args.writers))
                    print(row + f" (p99 {busy / alone:.1f} times)", flush=True)
        finally:
            process.send_signal(signal.SIGTERM)
            status = process.wait(120)
    print(f"\nstopped by SIGTERM with status {status}")


if __name__ == "__main__":
    sys.exit(run_cli(main))
