"""Item embeddings in TorchRec's sharded tables: two processes with half of the rows each train as one table does.

    python -m venv scratch && scratch/bin/pip install torchrec fbgemm-gpu-cpu   # versions that fit torch, see docs/scale.md
    scratch/bin/python benchmarks/torchrec_tables.py --processes 2

Starts itself under ``torchrun`` with gloo. Each process gets the gradients of its own half of each batch. TorchRec moves
the rows of its tables in backward, by an optimizer of its own; here SGD, which can be compared exactly.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RATE = 0.5


def sharded(n_items: int, width: int, _sparse: bool) -> Any:
    """A table whose rows are split over the processes (`model.tables.Factory`)."""
    import torch
    import torch.distributed as dist
    from torch import nn
    from torchrec import EmbeddingCollection, EmbeddingConfig, KeyedJaggedTensor
    from torchrec.distributed.embedding import EmbeddingCollectionSharder
    from torchrec.distributed.model_parallel import DistributedModelParallel
    from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
    from torchrec.distributed.planner.types import ParameterConstraints
    from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward

    class Sharded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            start = torch.empty(n_items, width).normal_(std=0.02, generator=torch.Generator().manual_seed(0))
            config = EmbeddingConfig(
                num_embeddings=n_items, embedding_dim=width, name="item_vectors", feature_names=["item"]
            )
            collection = EmbeddingCollection(tables=[config], device=torch.device("cpu"))
            collection.embeddings["item_vectors"].weight.data.copy_(start)
            apply_optimizer_in_backward(torch.optim.SGD, collection.parameters(), {"lr": RATE})
            topology = Topology(world_size=dist.get_world_size(), compute_device="cpu")
            planner = EmbeddingShardingPlanner(
                topology=topology, constraints={"item_vectors": ParameterConstraints(sharding_types=["row_wise"])}
            )
            sharder = EmbeddingCollectionSharder()
            plan = planner.collective_plan(collection, [sharder], dist.GroupMember.WORLD)
            self.table = DistributedModelParallel(collection, device=torch.device("cpu"), plan=plan, sharders=[sharder])
            self.n_items = n_items
            self.plan = str(plan)

        def forward(self, items: Any) -> Any:
            flat = items.flatten()
            asked = KeyedJaggedTensor(["item"], flat, lengths=torch.ones(len(flat), dtype=torch.int64))
            return self.table(asked)["item"].values().view(*items.shape, -1)

        def whole(self) -> Any:
            return self(torch.arange(self.n_items))

    return Sharded()


def train(folder: Path, way: str) -> None:
    """Steps of SASRecPacked by SGD; prints losses and a checksum of the table."""
    import numpy as np
    import torch
    import torch.distributed as dist
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import init_seed

    import recbole_unisrec  # noqa: F401
    from recbole_unisrec import distributed
    from recbole_unisrec.model.tables import ItemEmbedding, tables_by
    from recbole_unisrec.settings import build_config, model_class

    os.chdir(folder)
    world = distributed.start("gloo") if way == "sharded" else distributed.World()
    if world.first and not (folder / "dataset" / "small").is_dir():
        rng, target = np.random.default_rng(0), folder / "dataset" / "small"
        target.mkdir(parents=True)
        lines = [f"{u}\t{i}\t{t}" for u in range(400) for t, i in enumerate(rng.integers(0, 500, rng.integers(4, 12)))]
        (target / "small.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n" + "\n".join(lines) + "\n")
    distributed.barrier(world)
    config = build_config("SASRecPacked", "small", [], {
        "data_path": "dataset", "loss": "sampled", "n_negatives": 64, "train_batch_size": 200, "hidden_size": 32,
        "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "use_gpu": False, "checkpoint_dir": str(folder),
    })  # fmt: skip
    init_seed(1, reproducibility=True)
    data, _, _ = data_preparation(config, create_dataset(config))

    def local(n_items: int, width: int, sparse: bool) -> Any:
        return ItemEmbedding(n_items, width, sparse=sparse)

    with tables_by(sharded if way == "sharded" else local):
        init_seed(1, reproducibility=True)
        model = model_class("SASRecPacked")(config, data._dataset)
    start = torch.empty(model.n_items, 32).normal_(std=0.02, generator=torch.Generator().manual_seed(0))
    table = model.item_embedding
    if way == "local":
        table.weight.data.copy_(start)
    generator = torch.Generator().manual_seed(2)  # the rest begins alike, whatever the tables drew
    rest = [p for name, p in model.named_parameters() if not name.startswith("item_embedding")]
    for p in rest:
        p.data.copy_(torch.randn(p.shape, generator=generator) * 0.1 if p.dim() > 1 else p.data)
    optimizer = torch.optim.SGD(rest + (list(table.parameters()) if way == "local" else []), lr=RATE)
    losses = []
    for epoch in range(3):
        data.set_epoch(epoch)
        for batch in data:
            optimizer.zero_grad()
            loss = model.calculate_loss(batch) * batch.share
            # TorchRec averages the gradients of rows over processes; ours are sums
            (loss * world.size).backward()
            for p in rest:
                p.grad /= world.size
            distributed.sum_gradients(rest, world)
            optimizer.step()
            losses.append(float(distributed.sum_over(loss.detach().clone(), world)))
    with torch.no_grad():
        whole = table.whole()
    if world.first:
        torch.save({"losses": losses, "table": whole.clone()}, folder / f"{way}.pt")
        if way == "sharded":
            print(table.plan)
    if way == "sharded":
        dist.barrier()
        distributed.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--train", choices=["sharded", "local"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        train(options.folder, options.train)
        return
    import torch

    with tempfile.TemporaryDirectory() as folder:
        again = [str(Path(__file__).resolve()), "--folder", folder, "--train"]
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(options.processes)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        for command in ([*again, "local"], [*torchrun, *again, "sharded"]):
            subprocess.run([sys.executable, "-W", "ignore", *command], check=True, env=environment)
        one, several = (torch.load(Path(folder) / f"{way}.pt") for way in ("local", "sharded"))
    losses = [abs(a - b) for a, b in zip(one["losses"], several["losses"], strict=True)]
    rows = (one["table"] - several["table"]).abs().max()
    print(f"{len(losses)} steps; loss {one['losses'][0]:.4f} to {one['losses'][-1]:.4f}; largest difference of a loss "
          f"{max(losses):.1e}, of a weight of the table {float(rows):.1e}")  # fmt: skip
    if max(losses) > 1e-4 or rows > 1e-4:
        raise SystemExit("the sharded table does not train as the one table does")


if __name__ == "__main__":
    main()
