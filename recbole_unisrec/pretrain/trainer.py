"""The pre-training loop: resumable at every step, checked for NaN, validated on held-out users."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dataset_tools.common import write_text
from recbole_unisrec import checkpoint as store
from recbole_unisrec.data.ahead import ahead
from recbole_unisrec.distributed import World, barrier, copy_from_first, sum_gradients, sum_over
from recbole_unisrec.errors import UserError
from recbole_unisrec.metrics import rank_metrics
from recbole_unisrec.model.losses import target_ranks
from recbole_unisrec.pretrain.batch import PretrainBatch
from recbole_unisrec.pretrain.dataset import on_device
from recbole_unisrec.pretrain.fixed import FixedBatches, RecordedPretraining
from recbole_unisrec.pretrain.gates import GateSpread, gate_spread, plot_gates
from recbole_unisrec.pretrain.loader import PretrainLoader
from recbole_unisrec.pretrain.model import UniSRecPretrain
from recbole_unisrec.pretrain.views import mix_seed
from recbole_unisrec.record import plain, versions
from recbole_unisrec.run_state import difference, optimizer_tensors, set_optimizer
from recbole_unisrec.setting_table import PretrainSettings, RunSettings
from recbole_unisrec.trainer import NAN_CHECK_EVERY, PackedTrainer

TASKS = ("seq_item", "seq_seq")
VALID_METRICS, VALID_TOPK, VALID_BEST = ("hit", "ndcg"), (10,), "ndcg@10"
BLOCK = 4096


def run_folder(config: Any) -> Path:
    """Where the checkpoints of a run lie."""
    run = RunSettings.from_config(config)
    return Path(run.checkpoint_dir) / f"UniSRec-{run.dataset}"


class UniSRecPretrainTrainer(PackedTrainer):
    """Trains `UniSRecPretrain`; the state of a run is a function of (settings, epoch, step), but for the weights.

    Parameters
    ----------
    config
        Reads, beside RecBole's training settings, ``save_step``, ``save_batches``, ``keep_checkpoints``,
        ``valid_every``, ``stopping_step`` and ``precision``.
    model
        Its ``world`` says which process this is.

    Raises
    ------
    UserError
        If the loss or a weight becomes NaN or infinite (the last good checkpoint stays), or a folder cannot be written.
    """

    model: UniSRecPretrain

    def __init__(self, config: Any, model: UniSRecPretrain) -> None:
        super().__init__(config, model)
        self.world: World = model.world
        self.folder = run_folder(config)
        s = PretrainSettings.from_config(config)
        self.save_step, self.save_batches = s.save_step, s.save_batches
        self.keep, self.valid_every = s.keep_checkpoints, s.valid_every
        self.history: list[dict[str, Any]] = []
        self.spreads: list[GateSpread] = []
        self.begin, self.step, self.sums = 0, 0, [0.0, 0.0]
        self._recordings: RecordedPretraining | None = None
        self._fixed: FixedBatches
        self.say: Callable[[str], None] = self.logger.info
        copy_from_first(list(model.parameters()), self.world)

    # --- checkpoints

    def _meta(self, epoch: int) -> dict[str, Any]:
        return {
            "model": "UniSRec",
            "dataset": self.dataset.dataset_name,
            "domains": [d.name for d in self.dataset.domains],
            "encoder": self.dataset.features.encoder,
            "width": self.dataset.features.width,
            "epoch": epoch,
            "n_parameters": sum(p.numel() for p in self.model.parameters()),
            "versions": versions(),
            "config": plain(self.config.final_config_dict),
        }

    def _save(self, epoch: int, step: int) -> None:
        """Write a checkpoint that goes on with step `step` of epoch `epoch`."""
        self._check_weights(epoch, step)
        if not self.world.first:
            return
        progress = {
            "epoch": epoch,
            "step": step,
            "seed": self.training.seed,
            "sums": self.sums,
            "history": self.history,
            "same": self._same(),
        }
        total = epoch * len(self.loader) + step
        training = store.TrainingState(optimizer_tensors(self.model, self.optimizer), progress)
        path = self.folder / f"step-{total:08}"
        store.save_checkpoint(path, self.model.state_dict(), self._meta(epoch), training)
        store.prune(self.folder, self.keep)
        self.logger.info(f"saved {path}")

    def _same(self) -> dict[str, Any]:
        """What of the data must not change between the parts of a run; the settings stand in the checkpoint too."""
        return {"pairs": len(self.dataset), "steps": len(self.loader)}

    def resume(self, train_data: PretrainLoader) -> str:
        """Go on from the newest sound checkpoint of the run's folder; says from which.

        Raises
        ------
        UserError
            If all are torn, or a setting that determines the result has changed, or the data has.
        """
        self.loader, self.dataset = train_data, train_data.dataset
        found = store.latest_checkpoint(self.folder)
        if found is None:
            return f"nothing to resume in {self.folder}; starting anew"
        path, weights, meta, training, passed = found
        before, now = training.progress["same"], self._same()
        changed = difference(meta["config"], self.config.final_config_dict)
        changed = changed or next(
            (f"{n} {before.get(n)}, now it is {now[n]}" for n in now if before.get(n) != now[n]), None
        )
        if changed:
            raise UserError(
                f"{path} was made with {changed}; resume with the same settings and data, or start in another checkpoint_dir"
            )
        from recbole_unisrec.transfer import copy_weights

        copy_weights(self.model, weights, str(path))
        set_optimizer(self.model, self.optimizer, training.optimizer)
        self.begin, self.step = training.progress["epoch"], training.progress["step"]
        self.sums, self.history = training.progress["sums"], training.progress["history"]
        torn = "".join(f"torn checkpoint passed over: {line}\n" for line in passed)
        if self.step == 0 and self._stops():
            return (
                f"{torn}the run in {self.folder} is finished: it stopped early after epoch {self.begin - 1}; nothing is "
                "trained (a larger stopping_step would go on)"
            )
        if self.begin >= self.training.epochs:
            return f"{torn}the run in {self.folder} is finished: all {self.begin} epochs are trained (more epochs would go on)"
        return f"{torn}resumed from {path}: epoch {self.begin}, step {self.step}"

    # --- training

    def fit(
        self, train_data: Any, valid_data: Any = None, verbose: bool = True, saved: bool = True,
        show_progress: bool = False, callback_fn: Any = None,
    ) -> tuple[float | None, dict[str, float] | None]:  # fmt: skip
        """Train; RecBole's signature.

        Parameters
        ----------
        train_data
            A `PretrainLoader`.
        valid_data
            Not used: held-out users are the dataset's.
        callback_fn
            Called with the epoch and its record (losses, seconds, validation, gate).

        Returns
        -------
        tuple
            Best validation score and the record of its epoch; (None, None) without validation.
        """
        self.loader, self.dataset = train_data, train_data.dataset
        epochs = self.training.epochs
        if saved and self.world.first and self.begin == self.step == 0 and store.list_checkpoints(self.folder):
            raise UserError(
                f"{self.folder} holds the checkpoints of another run; add --resume to go on with it, or set checkpoint_dir"
            )
        if saved and self.world.first:
            store.clean(self.folder)
        barrier(self.world)
        ended = self.begin > 0 and self.step == 0 and self._stops()
        for epoch in range(self.begin, self.begin if ended else epochs):
            try:
                record = self._epoch(epoch, show_progress and self.world.first, saved)
            except torch.OutOfMemoryError as error:
                raise self._does_not_fit() from error
            if self.valid_every and ((epoch + 1) % self.valid_every == 0 or epoch + 1 == epochs):
                record["valid"] = self.validate()
            self._gates(record, saved)
            self.history.append(record)
            self.begin, self.step, self.sums = epoch + 1, 0, [0.0, 0.0]
            stop = self._stops()
            last = stop or epoch + 1 == epochs
            if saved and self._is_best(record):
                self._save_best(epoch + 1)
            if saved and (last or (self.save_step and (epoch + 1) % self.save_step == 0)):
                self._save(epoch + 1, 0)
            if saved and self.world.first:
                write_text(self.folder / "history.json", json.dumps(self.history, indent=1) + "\n")
            if callback_fn is not None:
                callback_fn(epoch, record)
            if stop:
                break
        scored = [r for r in self.history if "valid" in r]
        if not scored:
            return None, None
        best = max(scored, key=self._score)
        return self._score(best), best

    def _epoch(self, epoch: int, show_progress: bool, saved: bool) -> dict[str, Any]:
        started = time.perf_counter()
        self.model.train()
        self.loader.start_at(epoch, self.step)
        sums = torch.tensor(self.sums, dtype=torch.float64, device=self.device)
        recorded = self._recorded()
        if recorded is not None:
            sums = recorded.sums.copy_(sums)
        n_steps, rank = len(self.loader), self.world.rank
        check = 1 if self.device.type == "cpu" else NAN_CHECK_EVERY
        first = self.step
        bar = tqdm(
            ahead(self.loader if recorded is None else self._fixed, self.device), desc=f"epoch {epoch:>3}", unit="step", leave=False, disable=None if show_progress else True,
            total=n_steps, initial=first,
        )  # fmt: skip
        n_rows = 0
        for step, batch in enumerate(bar, first):
            n_rows += len(batch) if recorded is not None else len(batch.ids)
            # dropout and gate noise follow from the step, so no random state needs to be kept
            torch.manual_seed(mix_seed(self.training.seed, epoch, step, rank))
            if recorded is not None:
                recorded(batch)
            else:
                sums = sums + self._step(batch.to(self.device))
            if (step % check == 0 or step + 1 == n_steps) and not torch.isfinite(sums).all():
                raise UserError(self._nan(epoch, step, check))
            self.step = step + 1
            if show_progress and (step % check == 0):
                bar.set_postfix(loss=f"{float(sums[0]) / (step + 1):.4f}", refresh=False)
            if saved and self.save_batches and (step + 1) % self.save_batches == 0 and step + 1 < n_steps:
                self.sums = sums.tolist()
                self._save(epoch, step + 1)
        seconds = time.perf_counter() - started
        mean = (sums / n_steps).tolist()
        return {
            "epoch": epoch,
            **dict(zip(TASKS, mean, strict=True)),
            "loss": mean[0] + self.model.weight_seq * mean[1],
            "seconds": seconds,
            "rows_per_second": n_rows / seconds,
        }

    def _step(self, batch: PretrainBatch) -> Tensor:
        """One step; the losses of the tasks over all processes, float64 [2]."""
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            seq_item, seq_seq = self.model.task_losses(batch)
            loss = seq_item + self.model.weight_seq * seq_seq
        loss.backward()
        sum_gradients(self.model.parameters(), self.world)
        self.move_weights()
        return sum_over(torch.stack([seq_item.detach(), seq_seq.detach()]).double(), self.world)

    @property
    def graphs(self) -> bool:
        """Whether steps are to run as CUDA graphs, if a batch goes through the encoder as a whole."""
        return super().graphs and on_device(self.config)

    def _recorded(self) -> RecordedPretraining | None:
        """What runs recorded steps, the same one in all epochs; None if steps are launched one by one."""
        at_a_time = self.loader.at_a_time
        if not self.graphs or 0 < at_a_time < -(-int(self.loader.rows.domains[-1]) // len(self.loader)):
            return None
        if self._recordings is None or self._fixed.loader is not self.loader:
            self._fixed = FixedBatches(self.loader)
            self._recordings = RecordedPretraining(self, self.recorder(), self.say)
        return self._recordings

    def _nan(self, epoch: int, step: int, check: int) -> str:
        where = f"step {step}" if check == 1 or step == 0 else f"one of the {check} steps up to {step}"
        return f"the loss is not finite at {where} of epoch {epoch}; {self._way_out()}"

    def _way_out(self) -> str:
        kept = store.list_checkpoints(self.folder)
        precision = "" if self.autocast_dtype is None else " or use precision=fp32"
        change = f"lower learning_rate, set clip_grad_norm{precision}"
        if not kept:
            return f"no checkpoint was written yet; {change}"
        return (
            f"the last good checkpoint is {kept[0]}; {change}, and start in another checkpoint_dir, from its weights if you "
            f"like (--pretrained {kept[0]} --freeze none)"
        )

    def _check_weights(self, epoch: int, step: int) -> None:
        """No checkpoint is written of weights that the last step has spoilt."""
        spoilt = [name for name, p in self.model.named_parameters() if not torch.isfinite(p).all()]
        if spoilt:
            before = f"step {step - 1} of epoch {epoch}" if step else f"the last step of epoch {epoch - 1}"
            raise UserError(f"{spoilt[0]} is not finite after {before}; {self._way_out()}")

    def _gates(self, record: dict[str, Any], saved: bool) -> None:
        self.model.eval()
        spread = gate_spread(self.model.moe_adaptor, self.dataset.features, self.dataset.domains, self.device)
        record["gate_share"], record["experts_in_use"] = spread.share.tolist(), spread.effective.tolist()
        names = [d.name for d in self.dataset.domains]
        if self.world.first:
            self.logger.info(f"epoch {record['epoch']} {spread.line(names)}")
            if spread.collapsed:
                self.say(f"warning: the gate has collapsed, {spread.line(names)}")
            if saved:
                import numpy as np

                past = [GateSpread(np.array(r["gate_share"]), np.array(r["experts_in_use"])) for r in self.history]
                numbers = [*(r["epoch"] for r in self.history), record["epoch"]]
                plot_gates([*past, spread], numbers, names, self.folder / "gates.png")

    # --- validation

    @torch.no_grad()
    def validate(self) -> dict[str, dict[str, float]]:
        """Zero-shot HIT and NDCG@10 of the last item of held-out users, among the items of their domain.

        Returns
        -------
        dict
            Metrics by domain, and ``mean`` over domains. The work is split over the processes.
        """
        self.model.eval()
        found: dict[str, dict[str, float]] = {}
        for number, domain in enumerate(self.dataset.domains):
            rows, target = self.dataset.held_out(number)
            if not len(rows):
                continue
            base = domain.first_item
            ids = torch.arange(1 + base, 1 + base + domain.n_items)
            with self.autocast():
                blocks = [self.model.moe_adaptor(self.dataset.features[b].to(self.device)) for b in ids.split(BLOCK)]
                table = torch.cat([torch.zeros_like(blocks[0][:1]), *blocks])
                local = replace(rows, items=rows.items - base)
                parts, order = local.packed(BLOCK)
                output = self.model.outputs_in_parts([p.to(self.device) for p in parts], table)
            output = output[order.to(self.device)]
            target = (target - base).to(self.device)
            ranks = target_ranks(output.float(), self.model.scaled(table.float()), target)
            found[domain.name] = dict(rank_metrics(ranks.cpu(), VALID_METRICS, VALID_TOPK))
        if not found:
            raise UserError("no users are held out (valid_users is 0 or domains are tiny); set valid_every=0")
        names = next(iter(found.values()))
        found["mean"] = {name: sum(f[name] for f in found.values()) / len(found) for name in names}
        return found

    @staticmethod
    def _score(record: dict[str, Any]) -> float:
        return float(record["valid"]["mean"][VALID_BEST])

    def _is_best(self, record: dict[str, Any]) -> bool:
        scored = [r for r in self.history if "valid" in r]
        return "valid" in record and self._score(record) >= max(self._score(r) for r in scored)

    def _stops(self) -> bool:
        """Early stopping: `stopping_step` validations in a row without a better score; 0 never stops."""
        patience = self.training.stopping_step
        scored = [r for r in self.history if "valid" in r]
        if not patience or not scored:
            return False
        best = max(range(len(scored)), key=lambda i: self._score(scored[i]))
        return len(scored) - 1 - best >= patience

    def _save_best(self, epoch: int) -> None:
        self._check_weights(epoch, 0)
        if self.world.first:
            store.save_checkpoint(self.folder / store.BEST, self.model.state_dict(), self._meta(epoch))
