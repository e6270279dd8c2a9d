"""RecBole's ``Trainer`` with a training step without host-device synchronisation and an evaluation without sorting."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.trainer import Trainer
from recbole.utils import EvaluatorType
from torch import Tensor
from tqdm import tqdm

from dataset_tools.common import check_writable
from dataset_tools.precision import usable_precision
from recbole_unisrec import distributed
from recbole_unisrec.beyond import BEYOND, Recommended, beyond_metrics
from recbole_unisrec.data.ahead import ahead
from recbole_unisrec.data.fixed import FixedPlan
from recbole_unisrec.data.held_out import some_pairs
from recbole_unisrec.data.history_blocks import HistoryBlock, history_blocks
from recbole_unisrec.data.loader import PackedTrainLoader
from recbole_unisrec.data.sequences import Pairs, bucket_lengths
from recbole_unisrec.errors import UserError
from recbole_unisrec.graphs import CudaRecorder, GraphedEpochs, Recorder, may_record
from recbole_unisrec.metrics import RANK_METRICS, rank_metrics
from recbole_unisrec.model.base import TableRecommender
from recbole_unisrec.model.block_ranks import ItemBlocks
from recbole_unisrec.model.losses import target_ranks
from recbole_unisrec.optim import RowAdam, clip_gradients
from recbole_unisrec.path_start import MOST_PAIRS, TRIED, choose_start
from recbole_unisrec.setting_table import (
    EvaluationSettings,
    LossSettings,
    RunSettings,
    TextPathSettings,
    TrainingSettings,
)
from recbole_unisrec.transfer import transfer_from_config
from recbole_unisrec.unfinished import RunFolder
from recbole_unisrec.weight_average import WeightAverage
from recbole_unisrec.whole_save import whole_torch_save

EVAL_ROOM = 65_536  # items of the histories that are encoded at a time
EVAL_ROOM_ON_DEVICE = 1_048_576  # the same on a GPU
TURNS = 3  # lifetimes of the moving average until its start is forgotten (5% are left)
NAN_CHECK_EVERY = 50  # steps between looks at the loss on an accelerator, where each look is a synchronisation


class PackedTrainer(Trainer):
    """Trains and evaluates a `TableRecommender`; everything else is RecBole's ``Trainer``.

    Raises
    ------
    UserError
        If the loss becomes NaN or infinite (the best checkpoint so far is kept), or the checkpoint folder cannot be
        written.
    """

    model: TableRecommender
    saved_model_file: str
    best_valid_score: float
    best_valid_result: Any

    def __init__(self, config: Any, model: TableRecommender) -> None:
        self.training, self.loss = TrainingSettings.from_config(config), LossSettings.from_config(config)
        self.evaluation = EvaluationSettings.from_config(config)
        run = RunSettings.from_config(config)
        check_writable(run.checkpoint_dir, "set checkpoint_dir")
        self.writes = bool(run.single_process) or run.local_rank == 0
        self.world = distributed.current()
        self.transfer = transfer_from_config(config, model, getattr(model, "text_encoder", ""))
        super().__init__(config, model)
        precision = self.training.precision
        if self.enable_amp and self.device.type == "cpu":  # autocast's type on a CPU
            precision = "bf16"
        self.autocast_dtype = torch.bfloat16 if usable_precision(precision, self.device) == "bf16" else None
        self.recorded: GraphedEpochs | None = None
        if self.world.size > 1:
            distributed.copy_from_first(model.parameters(), self.world)
            torch.manual_seed((self.training.seed + 1_000_003 * self.world.rank) % 2**63)  # dropout of its own
        self.average: WeightAverage | None = None
        if self.training.ema_decay:
            self.average = WeightAverage(model, self.training.ema_decay)
        self.saved_model_file = own_name(self.saved_model_file)
        self.run: RunFolder | None = None
        self.path_start: dict[str, float] | None = None  # what validation chose, see `path_start`

    @property
    def stopping_step(self) -> float:
        """Validations without a better one until the end; none is too many while the average still holds the start.

        A small dataset has few steps an epoch. There the score first falls, for the encoder begins with noise, and
        ten epochs can be over before it rises.
        """
        average = self.average
        if average is not None and average.steps < round(TURNS / (1 - average.decay)):
            return math.inf
        return self._stopping_step

    @stopping_step.setter
    def stopping_step(self, value: int) -> None:
        self._stopping_step = value

    def _build_optimizer(self, **kwargs: Any) -> torch.optim.Optimizer:
        params = [p for p in kwargs.pop("params", self.model.parameters()) if p.requires_grad]
        if not params:
            # zero-shot: nothing learns, but RecBole's Trainer wants an optimizer
            params = [torch.nn.Parameter(torch.zeros(0))]
        if self.learner.lower() in ("adam", "adamw") and "learner" not in kwargs:
            kind = torch.optim.Adam if self.learner.lower() == "adam" else torch.optim.AdamW
            if getattr(self.model, "item_rows", False):
                kind = RowAdam
            # fused: one pass over all weights; the same arithmetic. A graph needs the count of steps on the device
            return kind(
                params, lr=self.learning_rate, weight_decay=self.weight_decay, fused=True, capturable=self.graphs
            )
        return super()._build_optimizer(params=params, **kwargs)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context of forward passes: bfloat16 products if ``precision: bf16``."""
        if self.autocast_dtype is None and not (self.enable_amp and self.device.type == "cuda"):
            return contextlib.nullcontext()
        return torch.autocast(device_type=self.device.type, dtype=self.autocast_dtype)

    @property
    def graphs(self) -> bool:
        """Whether steps are to run as CUDA graphs (``graphs``)."""
        # a sparse gradient has as many rows as the data says, and a capture cannot wait for other processes
        fixed = self.world.size == 1 and not getattr(self.model, "item_rows", False)
        fixed = fixed and getattr(self.model, "fixed_shapes", True)
        return self.device.type == "cuda" and may_record(self.training) and fixed

    def move_weights(self) -> None:
        """From gradients to weights and their average."""
        if self.clip_grad_norm:
            clip_gradients(self.model.parameters(), **self.clip_grad_norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update()

    def _train_epoch(
        self, train_data: Any, epoch_idx: int, loss_func: Any = None, show_progress: bool = False
    ) -> float:
        if self.run is not None:
            self.run.epoch_starts(self, train_data, epoch_idx)
        try:
            return self._epoch_of_steps(train_data, epoch_idx, loss_func, show_progress)
        except torch.OutOfMemoryError as error:
            raise self._does_not_fit() from error

    def _does_not_fit(self) -> UserError:
        size = self.training.train_batch_size
        return UserError(
            f"the GPU's memory does not hold a step of {size} pairs; try train_batch_size={max(1, size // 2)}"
        )

    def _epoch_of_steps(self, train_data: Any, epoch_idx: int, loss_func: Any, show_progress: bool) -> float:
        self.model.train()
        if self.graphs and loss_func is None and isinstance(train_data, PackedTrainLoader):
            return self._epoch_of_graphs(train_data, epoch_idx, show_progress)
        loss_func = loss_func or self.model.calculate_loss
        if hasattr(train_data, "set_epoch"):
            train_data.set_epoch(epoch_idx)
        total = torch.zeros((), device=self.device)
        every = 1 if self.device.type == "cpu" else NAN_CHECK_EVERY
        for step, batch in enumerate(self._bar(epoch_idx, show_progress)(ahead(train_data, self.device))):
            batch = batch.to(self.device)
            self.optimizer.zero_grad(set_to_none=True)
            with self.autocast():
                loss = loss_func(batch)
                loss = loss * getattr(batch, "share", 1.0)  # of the mean over all processes
            loss.backward()
            distributed.sum_gradients(self.model.parameters(), self.world)
            self.move_weights()
            total += loss.detach()
            if step % every == 0 and not torch.isfinite(distributed.sum_over(total.clone(), self.world)):
                raise UserError(self._not_finite(epoch_idx, step))
        return float(distributed.sum_over(total, self.world)) / len(train_data)

    def fit(
        self, train_data: Any, valid_data: Any = None, verbose: bool = True, saved: bool = True,
        show_progress: bool = False, callback_fn: Any = None,
    ) -> Any:  # fmt: skip
        """Train; RecBole's signature and answer.

        A model with a `text_path` is looked at before it is trained: validation chooses where the path starts
        (`path_start`), and with few users training can lose more than it gains.
        """
        if 0 < self.epochs <= self.start_epoch:  # resumed, and RecBole would put the last epoch in the best one's place
            return self.best_valid_score, self.best_valid_result
        fresh = self.start_epoch == 0 and self.model.text_path is not None
        if fresh and valid_data and self.training.eval_step > 0:
            self._start_path(valid_data)
            if self.epochs > 0:
                self.best_valid_score, self.best_valid_result = self._valid_epoch(
                    valid_data, show_progress=show_progress
                )
                if saved:
                    self._save_checkpoint(-1, verbose=verbose)
        return super().fit(train_data, valid_data, verbose, saved, show_progress, callback_fn)

    def _start_path(self, valid_data: Any) -> None:
        """Put the text's own path where validation has it best, unless it was trained before or somebody has said where."""
        path, pairs = self.model.text_path, getattr(getattr(valid_data, "_dataset", None), "pairs", None)
        if path is None or pairs is None or not len(pairs) or self.transfer is not None:
            return
        settings = TextPathSettings.from_config(self.config)
        given = {name: getattr(settings, name) for name in TRIED}
        if None not in given.values():
            return
        metric, k = self.evaluation.valid_metric.lower().split("@")
        some, metric = some_pairs(pairs, MOST_PAIRS), metric if metric in RANK_METRICS else "ndcg"

        def score(start: dict[str, float]) -> float:
            path.start_at(start["text_path_decay"], start["text_path_popularity"])
            return rank_metrics(self.ranks(some), [metric], [int(k)])[f"{metric}@{k}"]

        self.path_start = choose_start(given, score)
        path.start_at(self.path_start["text_path_decay"], self.path_start["text_path_popularity"])
        if self.average is not None:  # it begins where the weights do
            self.average = WeightAverage(self.model, self.average.decay)

    def _epoch_of_graphs(self, train_data: PackedTrainLoader, epoch: int, show_progress: bool) -> float:
        if self.recorded is None or self.recorded.plan.loader is not train_data:
            plan = FixedPlan(train_data, self.device)
            self.recorded = GraphedEpochs(self, plan, self.recorder(), self.logger.warning)
        bar = self._bar(epoch, show_progress)
        return self.recorded.run(epoch, NAN_CHECK_EVERY, bar, lambda step: self._not_finite(epoch, step))

    def recorder(self) -> Recorder:
        """What records steps."""
        return CudaRecorder(self.device)

    @staticmethod
    def _bar(epoch: int, show_progress: bool) -> Callable[[Any], Any]:
        shown = None if show_progress else True
        return functools.partial(tqdm, desc=f"epoch {epoch:>3}", unit="step", leave=False, disable=shown)

    def _not_finite(self, epoch: int, step: int) -> str:
        return (
            f"the loss is not finite at step {step} of epoch {epoch}; lower learning_rate or set clip_grad_norm (the "
            f"best checkpoint so far, if any, is {self.saved_model_file})"
        )

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        """RecBole's content; with ``ema_decay`` its ``state_dict`` is the average, and the weights are beside it."""
        if not self.writes:
            return
        target = kwargs.pop("saved_model_file", self.saved_model_file)
        state = {
            "config": self.config,
            "epoch": epoch,
            "cur_step": self.cur_step,
            "best_valid_score": self.best_valid_score,
            "other_parameter": self.model.other_parameter(),
            "optimizer": self.optimizer.state_dict(),
            "path_start": self.path_start,
        }
        if self.average is not None:
            # copies: the average and the weights change places below
            state["average"] = {
                "steps": self.average.steps,
                "weights": [w.detach().clone() for w in self.average.weights],
            }
        with self._averaged():
            whole_torch_save({**state, "state_dict": self.model.state_dict()}, target, pickle_protocol=4)
        if verbose:
            self.logger.info(f"Saving current: {target}")

    def resume_checkpoint(self, resume_file: Any) -> None:
        """RecBole's way to go on with training from a checkpoint; the average of ``ema_decay`` goes on too.

        Raises
        ------
        UserError
            If the checkpoint lacks the average, or has one that this run does not want.
        """
        from recbole_unisrec.safe_load import safe_torch_load

        saved = safe_torch_load(str(resume_file), map_location=self.device)
        kept, self.path_start = saved.get("average"), saved.get("path_start")
        if (kept is None) != (self.average is None):
            have, want = ("no average", "one") if kept is None else ("an average", "none")
            raise UserError(
                f"{resume_file} holds {have} of the weights, but ema_decay={self.training.ema_decay} wants {want}; resume "
                "with the settings it was trained with"
            )
        super().resume_checkpoint(resume_file)
        if self.average is not None:
            self.average.restore(kept["weights"], kept["steps"])

    @torch.no_grad()
    def evaluate(
        self, eval_data: Any, load_best_model: bool = True, model_file: Any = None, show_progress: bool = False
    ) -> Any:
        """Full ranking by counting; RecBole's own way where metrics ask for more than the rank of the next item.

        Returns
        -------
        OrderedDict
            ``{"hit@10": ...}`` as RecBole's, in the order of ``metrics`` and ``topk``.
        """
        if load_best_model:
            self.load_weights(model_file or self.saved_model_file)
        with self._averaged():
            return self._evaluate(eval_data, show_progress)

    def _averaged(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext() if self.average is None else self.average.applied()

    def _evaluate(self, eval_data: Any, show_progress: bool) -> Any:
        pairs = getattr(getattr(eval_data, "_dataset", None), "pairs", None)
        wanted = [m.lower() for m in self.evaluation.metrics]
        # the loader tells full ranking from sampled candidates: each phase has its own in eval_args
        full = self.evaluation.eval_type == EvaluatorType.RANKING and isinstance(eval_data, FullSortEvalDataLoader)
        if pairs is not None and not len(pairs):
            return None  # as RecBole's, for a split without this part
        if pairs is None or not full or not all(m in RANK_METRICS or m in BEYOND for m in wanted):
            return super().evaluate(eval_data, load_best_model=False, show_progress=show_progress)
        beyond = [m for m in wanted if m in BEYOND]
        recommended = Recommended(eval_data._dataset.item_num, self.evaluation.topk) if beyond else None
        ranks = self.ranks(pairs, show_progress, recommended)
        found: dict[str, float] = dict(
            rank_metrics(ranks, [m for m in wanted if m in RANK_METRICS], self.evaluation.topk)
        )
        if recommended is not None:
            train = eval_data._dataset.split.train
            popularity = torch.bincount(train.items[train.target], minlength=eval_data._dataset.item_num)
            found.update(beyond_metrics(recommended, beyond, popularity, self.evaluation.tail_ratio))
        result = OrderedDict((f"{m}@{k}", found[f"{m}@{k}"]) for m in wanted for k in self.evaluation.topk)
        places = self.evaluation.metric_decimal_place
        result = OrderedDict((name, round(value, places)) for name, value in result.items())
        self.wandblogger.log_eval_metrics(result, head="eval")
        return result

    def load_weights(self, file: str) -> None:
        """Load the weights of a checkpoint of this model (which are averaged already, if ``ema_decay`` is set)."""
        from recbole_unisrec.safe_load import safe_torch_load

        self.model.load_state_dict(safe_torch_load(file, map_location=self.device)["state_dict"])
        self.average = None

    @torch.no_grad()
    def ranks(self, pairs: Pairs, show_progress: bool = False, recommended: Recommended | None = None) -> Tensor:
        """Rank of the next item of each pair among all items; counts what is `recommended` on the way.

        Returns
        -------
        Tensor
            int64 [P] on the CPU, 1 is best, in the order of `pairs`.
        """
        self.model.eval()
        lengths = bucket_lengths(self.model.max_seq_length)
        with self.autocast():
            table = self.model.eval_table()
        candidates = self.model.all_candidates(table)
        # few lengths in each block; narrow numbers are sorted many times as fast
        order = (pairs.target - pairs.start).to(torch.int32).argsort(stable=True)
        mine = order[self.world.rank :: self.world.size]
        room = EVAL_ROOM if self.device.type == "cpu" else EVAL_ROOM_ON_DEVICE
        found_ranks = torch.zeros(len(pairs), dtype=torch.int64, device=self.device)
        bar = tqdm(total=len(mine), desc="evaluate", unit="user", leave=False, disable=None if show_progress else True)
        # nothing here waits for a GPU: ranks are copied once, at the end
        for block in history_blocks(pairs, mine, room, lengths, self.model.histories, self.device):
            self._rank_block(block, table, candidates, found_ranks, recommended)
            bar.update(len(block.index))
        bar.close()
        if recommended is not None and self.world.size > 1:
            counts = distributed.sum_over(recommended.counts.to(self.device), self.world)
            recommended.counts = counts.cpu()
        return distributed.sum_over(found_ranks, self.world).cpu()

    def _rank_block(
        self,
        block: HistoryBlock,
        table: Tensor,
        candidates: Tensor | ItemBlocks,
        ranks: Tensor,
        recommended: Recommended | None,
    ) -> None:
        with self.autocast():
            output = self.model.packed_outputs(block.batch, table)
        bias = self.model.seen_bias(block.seen) if block.seen else None
        each = None if recommended is None else recommended.add
        ranks[block.index] = target_ranks(output.float(), candidates, block.batch.target, block.seen, bias, each)


def own_name(file: str) -> str:
    """A checkpoint's name that no other run has: RecBole names by the second, and runs may start together."""
    stem, ending = os.path.splitext(file)
    return f"{stem}-{secrets.token_hex(4)}{ending}"
