"""Time and peak memory from raw Amazon dump to atomic files, against the UniSRec authors' own script.

    python benchmarks/bench_dataset.py --work bench --sizes 1 5 20
    python benchmarks/bench_dataset.py --work bench --sizes 1 5 --authors UniSRec/dataset/preprocessing

``--authors`` is the folder that holds their ``process_amazon.py``. Both sides read the same generated dump (made by
``generate_dumps.py`` where it is missing) in a process of its own, one after the other. The authors' script also
encodes the texts; that step is left out here (their functions are called in the order of their ``__main__`` without
it), so both sides do the same: raw ratings and metadata to text, index and train/valid/test files. The peak is the
largest resident set of the process, as the kernel counts it. After each pair the outputs are compared: users, items,
texts, and each user's set of items must be equal (the order of ties is not fixed in the authors' script).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CATEGORY = "Industrial_and_Scientific"

OURS = """
import sys
from dataset_tools.amazon import main
sys.exit(main(["Scientific", "--raw", sys.argv[1], "--out", sys.argv[2], "--overwrite", "--quiet", *sys.argv[3:]]))
"""

# their imports of torch and transformers serve the encoding only; empty modules stand in, which favours their side
AUTHORS = """
import argparse, os, sys, types
preprocessing, raw, out = sys.argv[1:4]
for name, attributes in {"torch": ("device", "cuda"), "transformers": ("AutoModel", "AutoTokenizer")}.items():
    module = types.ModuleType(name)
    for attribute in attributes:
        setattr(module, attribute, object)
    sys.modules[name] = module
sys.path.insert(0, preprocessing)
import process_amazon as p
args = argparse.Namespace(dataset="Scientific", user_k=5, item_k=5, input_path=raw, output_path=out)
inters = p.preprocess_rating(args)
texts = p.preprocess_text(args, inters)
train, valid, test, user2index, item2index = p.generate_training_data(args, inters)
p.check_path(os.path.join(out, "Scientific"))
p.convert_to_atomic_files(args, train, valid, test)
folder = os.path.join(out, "Scientific", "Scientific")
p.write_text_file(texts, folder + ".text")
p.write_remap_index(user2index, folder + ".user2index")
p.write_remap_index(item2index, folder + ".item2index")
"""


def measure(code: str, arguments: list[str], log: Path, threads: int) -> tuple[float, float, float]:
    """Run Python code in a process of its own; return (seconds, CPU seconds, peak MiB)."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "POLARS_MAX_THREADS": str(threads)}
    started = time.perf_counter()
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], env=environment, stdout=output, stderr=output
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"failed with status {process.returncode}:\n{log.read_text(errors='replace')[-3000:]}")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def read_back(folder: Path) -> tuple[dict[str, str], dict[str, list[str]], int]:
    """Read texts by raw item id, items by raw user id from the last history and target, and the training rows."""
    base = folder / "Scientific"
    users = [line.split("\t")[0] for line in Path(f"{base}.user2index").read_text("utf-8").splitlines()]
    items = [line.split("\t")[0] for line in Path(f"{base}.item2index").read_text("utf-8").splitlines()]
    with open(f"{base}.text", encoding="utf-8") as file:
        next(file)
        texts = dict(line.rstrip("\n").split("\t", 1) for line in file)
    sequences = {}
    with open(f"{base}.test.inter", encoding="utf-8") as file:
        next(file)
        for line in file:
            user, history, target = line.rstrip("\n").split("\t")
            chain = [items[int(i)] for i in history.split()] + [items[int(target)]]
            sequences[users[int(user)]] = chain
    with open(f"{base}.train.inter", "rb") as file:
        return texts, sequences, sum(1 for _ in file) - 1


def compare(ours: Path, theirs: Path) -> str:
    """Say how the two outputs agree; end the run if they do not."""
    our_texts, our_sequences, our_rows = read_back(ours)
    their_texts, their_sequences, their_rows = read_back(theirs)
    if our_texts != their_texts or our_sequences.keys() != their_sequences.keys() or our_rows != their_rows:
        sys.exit("the outputs differ in users, items, texts or training rows")
    equal = sum(our_sequences[user] == their_sequences[user] for user in our_sequences)
    for user, ours_chain in our_sequences.items():
        # beyond 51 items a tie at the cut may change which items are there
        if len(ours_chain) <= 50 and sorted(ours_chain) != sorted(their_sequences[user]):
            sys.exit(f"user {user} has other items")
    return (
        f"equal users, {len(our_texts):,} items and texts, {our_rows:,} training rows; "
        f"{equal / len(our_sequences):.2%} of the sequences also in equal order"
    )


def main() -> int:
    """Parse the command line and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for dumps and outputs")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 5, 20], help="millions of ratings")
    parser.add_argument("--authors", type=Path, help="folder of the authors' process_amazon.py")
    parser.add_argument("--authors_up_to", type=int, default=5, help="largest size to run their script on")
    parser.add_argument("--threads", type=int, default=2, help="polars threads (default: %(default)s)")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    print("| ratings (million) | dump (MB) | tool | seconds | CPU seconds ", end="")
    print("| peak (MiB) | times faster | part of the memory |")
    print("|---|---|---|---|---|---|---|---|")
    results = []
    for size in args.sizes:
        raw = args.work / f"{size}m"
        if not (raw / "Ratings" / f"{CATEGORY}.csv").exists():
            generator = [sys.executable, str(ROOT / "benchmarks" / "generate_dumps.py"), "--out", str(raw)]
            subprocess.run([*generator, "--ratings", str(size * 10**6), "--items", str(size * 60_000)], check=True)
        megabytes = sum(path.stat().st_size for path in raw.rglob("*") if path.is_file()) / 1e6
        ours = args.work / f"ours_{size}m"
        row = {"size": size, "megabytes": megabytes}
        log = args.work / "log"
        row["plain"] = measure(OURS, [str(raw), str(ours)], log, args.threads)
        seconds, cpu, peak = row["plain"]
        print(
            f"| {size} | {megabytes:,.0f} | ours, atomic files | {seconds:.1f} | {cpu:.1f} | {peak:,.0f} | | |",
            flush=True,
        )
        seconds, cpu, peak = row["splits"] = measure(
            OURS, [str(raw), str(ours), "--benchmark_splits"], log, args.threads
        )
        print(
            f"| {size} | {megabytes:,.0f} | ours, with splits | {seconds:.1f} | {cpu:.1f} | {peak:,.0f} | | |",
            flush=True,
        )
        if args.authors and size <= args.authors_up_to:
            theirs = args.work / f"theirs_{size}m"
            row["authors"] = measure(AUTHORS, [str(args.authors), str(raw), str(theirs)], log, args.threads)
            slow, slow_cpu, large = row["authors"]
            print(
                f"| {size} | {megabytes:,.0f} | authors' script | {slow:.1f} | {slow_cpu:.1f} | {large:,.0f} | "
                f"{slow / row['plain'][0]:.1f} ({slow / seconds:.1f} with splits) | {peak / large:.2f} |",
                flush=True,
            )
            row["agreement"] = compare(ours / "Scientific", theirs / "Scientific")
            print(f"\n{row['agreement']}\n", flush=True)
        results.append(row)
    (args.work / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
