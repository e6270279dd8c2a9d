"""Every setting of the project's models: what it may be, its default, which models take it, and what it does.

One line of `TABLE` is one setting. `check` answers a wrong value with one sentence; the page of settings and
``--help-settings`` are printed from the same lines (`setting_page`). RecBole knows a setting as soon as its line is here.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recbole_unisrec.errors import UserError
from recbole_unisrec.registry import MODELS, PACKED
from recbole_unisrec.setting_kinds import (
    DROPOUT,
    FLAG,
    NAME,
    POSITIVE,
    SHARE,
    Choice,
    Interval,
    Kind,
    Mapped,
    Number,
    OneOf,
    Several,
    Text,
    whole,
)

IN_PROPS = object()  # the default stands in props/ or in RecBole's own property files
EVERYBODY: tuple[str, ...] = ()
RECBOLES = ("RecBole's",)  # stands for every model of RecBole's own
UNISREC = ("UniSRec",)
PRETRAIN = ("UniSRecPretrain",)
BOTH = (*UNISREC, *PRETRAIN)
TEXTS = tuple(name for name, entry in MODELS.items() if entry.reads_text)
KNN = ("TextKNN",)
PATH = tuple(name for name in TEXTS if name in PACKED)
S3REC = ("S3RecText",)


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes
    ----------
    name
        As it is written in a property file.
    kind
        What its value may be.
    about
        What it does, in one line.
    models
        The models of this project that take it; empty is every model, RecBole's too, where the name has this meaning.
    default
        Its value if nobody says anything. The property files in props/ come after it.
    optional
        Whether ``~`` (nothing) is a value too.
    hint
        What to do about a wrong value, if the kind does not say it.
    """

    name: str
    kind: Kind
    about: str
    models: tuple[str, ...] = EVERYBODY
    default: Any = IN_PROPS
    optional: bool = False
    hint: str = ""

    def fits(self, value: Any) -> bool:
        """Whether the value is of the kind."""
        return self.optional if value is None else self.kind.fits(value)

    def is_of(self, model: str) -> bool:
        """Whether it has this meaning for a model."""
        if self.models == RECBOLES:
            return model not in MODELS
        return not self.models or model in self.models


INTERVALS = Interval()
FIELDS = Several(NAME, "[title, brand]")
COLUMNS = Mapped("{inter: [user_id, item_id, timestamp]}")
METRICS = (
    "Hit", "NDCG", "MRR", "MAP", "Recall", "Precision", "GAUC", "AUC", "LogLoss", "MAE", "RMSE", "ItemCoverage",
    "AveragePopularity", "ShannonEntropy", "GiniIndex", "TailPercentage",
)  # fmt: skip
AT_NO_K = ("gauc", "auc", "logloss", "mae", "rmse")  # metrics without a cut-off
NO_SPLIT = "{split: {LS: valid_and_test}, order: TO, group_by: user, mode: full}"

# fmt: off
TABLE: dict[str, list[Setting]] = {
    "Model: encoder": [
        Setting("n_layers", whole(1), "Transformer layers"),
        Setting("n_heads", whole(1), "attention heads; hidden_size is a multiple of it"),
        Setting("hidden_size", whole(1), "width of items and sequences"),
        Setting("inner_size", whole(1), "inner width of the feed-forward layers"),
        Setting("hidden_dropout_prob", DROPOUT, "dropout of inputs and layers"),
        Setting("attn_dropout_prob", DROPOUT, "dropout of attention weights"),
        Setting("hidden_act", Choice(("gelu", "relu", "swish", "tanh", "sigmoid")), "activation of the feed-forward layers"),
        Setting("layer_norm_eps", POSITIVE, "added to the variance in LayerNorm"),
        Setting("initializer_range", POSITIVE, "standard deviation of the initial weights"),
        Setting("loss_type", Choice(("CE",)), "cross-entropy over all items", tuple(MODELS), hint="RecBole's own models take BPR too"),
        Setting("temperature", POSITIVE, "of the softmax over cosines", BOTH),
        Setting("history_bias", FLAG, "a learned addition to the scores of items of the history, by distance", PACKED),
        Setting("mask_history", FLAG, "items of the history come last in evaluation; training is as without it", PACKED),
    ],
    "Model: text": [
        Setting("train_stage", Choice(("inductive_ft", "transductive_ft", "pretrain")), "text only, or text and item IDs; pretrain goes with --train_stage pretrain", BOTH),
        Setting("plm_suffix", Several(NAME, "[feat1CLS, featImage]", single=True), "which features: the file dataset/NAME/NAME.SUFFIX; of several files the vectors stand side by side", (*TEXTS, *PRETRAIN)),
        Setting("plm_suffix_aug", NAME, "text features with words dropped, for pre-training", BOTH),
        Setting("text_cols", Several(NAME, "[title, brand]", single=True), "columns of NAME.item that make the text, in this order; ~ is the column text, else those that look like text", default=None, optional=True),
        Setting("plm_size", Several(whole(1), "[384, 512]", single=True), "width of the text features (of several files a list); ~ takes what the files say", (*TEXTS, *PRETRAIN), optional=True),
        Setting("n_exps", whole(1), "experts of the adaptor", BOTH),
        Setting("adaptor_dropout_prob", DROPOUT, "dropout of the text features before each expert", BOTH),
        Setting("gate_noise", FLAG, "noisy gate; False is an ablation", BOTH),
        Setting("whitening", FLAG, "a learned shift before each expert; False is an ablation", BOTH),
        Setting("mask_unseen_ids", FLAG, "transductive: items without training interactions are their text alone", BOTH),
        Setting("feature_scaling", Choice(("none", "standardize", "whiten")), "of the text features before the adaptor; the paper has none", (*BOTH, *KNN)),
        Setting("feature_precision", Choice(("fp32", "bf16", "fp16")), "of the text features in memory", BOTH),
        Setting("text_path", FLAG, "the text's own path to the scores, beside the encoder (docs/results.md)", (*PATH, *PRETRAIN)),
        Setting("text_path_alone", DROPOUT, "share of the predictions of training that are made without the path", (*PATH, *PRETRAIN)),
        Setting("text_path_decay", Number(0, 1, above=True), "where the path starts: each item of the history counts so much of the next; ~ is chosen on validation", (*PATH, *PRETRAIN), optional=True),
        Setting("text_path_popularity", Number(0), "where the path starts: weight of log(1 + how often an item occurs in training), of that of the texts; ~ is chosen on validation", (*PATH, *PRETRAIN), optional=True),
        Setting("offset_penalty", Number(0), "weight of the mean squared length of the item offsets", ("ZESRec",)),
        Setting("decay", Number(0, 1, above=True), "each item of the history counts so much of the next", KNN),
        Setting("popularity_weight", Number(0), "of log(1 + how often an item occurs in training)", KNN),
    ],
    "Start from a pre-trained model": [
        Setting("pretrained", NAME, "checkpoint to start from: ours, or the authors' .pth", BOTH, optional=True),
        Setting("freeze", Choice(("encoder", "adaptor", "none")), "with pretrained: what does not learn; ~ is encoder", BOTH, optional=True),
        Setting("adaptor_share", SHARE, "with pretrained: how much of its adaptor to start from; the rest are new weights", BOTH),
    ],
    "Training": [
        Setting("epochs", whole(0), "at most; 0 evaluates without training"),
        Setting("stopping_step", whole(0), "validations without a better valid_metric until the end; in pre-training 0 never stops early"),
        Setting("eval_step", whole(0), "epochs between validations; 0 is never"),
        Setting("train_batch_size", whole(1), "(prefix, next item) pairs a step"),
        Setting("learning_rate", POSITIVE, "of the optimizer"),
        Setting("learner", Choice(("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam"), any_case=True), "the optimizer"),
        Setting("weight_decay", Number(0), "of the optimizer"),
        Setting("clip_grad_norm", Mapped("{max_norm: 1.0}", keys=("max_norm", "norm_type", "error_if_nonfinite", "foreach")), "longest gradient; ~ does not cut it", optional=True),
        Setting("train_mode", Choice(("packed", "prefix")), "all prefixes of a sequence in one pass, or one by one (RecBole's way, slow)", PACKED),
        Setting("long_sequences", Choice(("blocks", "exact")), "packed, users beyond the window: half-overlapping blocks, or one by one", PACKED),
        Setting("loss", Choice(("full", "sampled", "gbce")), "softmax over all items, over a sample of them, or gBCE over a sample", PACKED),
        Setting("negatives", Choice(("uniform", "popularity", "batch", "uniform+batch", "popularity+batch")), "loss sampled: how the sample is drawn", PACKED),
        Setting("n_negatives", whole(1), "items drawn for a batch, which all its pairs share", PACKED),
        Setting("logq", FLAG, "loss sampled: weigh negatives by how often they were to be expected", PACKED),
        Setting("gbce_t", SHARE, "loss gbce: calibration t, from 0 (binary cross-entropy) to 1", PACKED),
        Setting("item_optimizer", Choice(("auto", "adam", "rows")), "of ID embeddings: all rows, or those of the step; auto is rows with many items", PACKED),
        Setting("precision", Choice(("fp32", "bf16")), "of matrix products", (*PACKED, *PRETRAIN)),
        Setting("ema_decay", Number(0, 1, above=True, below=True), "evaluate a moving average of the weights, for example 0.98; ~ is off", PACKED, optional=True),
        Setting("graphs", Choice(("auto", "off")), "on a GPU: record steps as CUDA graphs where the loss is full", PACKED),
        Setting("train_neg_sample_args", Mapped("{distribution: uniform, sample_num: 1}"), "negatives of RecBole's models; ~ is none, which ours need", optional=True),
        Setting("enable_amp", FLAG, "RecBole's mixed precision; of ours, precision: bf16"),
        Setting("enable_scaler", FLAG, "with enable_amp: scale the loss (GPU)"),
        Setting("shuffle", FLAG, "draw the order of training anew each epoch"),
        Setting("seed", whole(0, 2**32 - 1), "of all random numbers"),
        Setting("reproducibility", FLAG, "the same numbers each time"),
        Setting("loss_decimal_place", whole(0), "decimals of the loss in the log"),
    ],
    "Data": [
        Setting("data_path", NAME, "folder that the dataset's folder lies in"),
        Setting("MAX_ITEM_LIST_LENGTH", whole(1), "longest history; older items are cut off"),
        Setting("cold_items", Number(0, 1, above=True, below=True), "share of items held out of training, to test on new ones; ~ is none", optional=True),
        Setting("cold_by", Choice(("random", "time")), "which items are held out: drawn at random, or the newest"),
        Setting("eval_users", whole(1), "validate and test on at most so many users, drawn once; ~ is all", PACKED, optional=True),
        Setting("train_users", Number(0, 1, above=True), "share of users to learn from, to test with little data; ~ is all", optional=True),
        Setting("user_inter_num_interval", INTERVALS, "users with so many interactions stay", optional=True),
        Setting("item_inter_num_interval", INTERVALS, "items with so many interactions stay", optional=True),
        Setting("val_interval", Mapped('{rating: "[4,inf)"}', Interval(tokens=True)), "interactions with values within these stay", optional=True),
        Setting("rm_dup_inter", Choice(("first", "last")), "of interactions of one user with one item, keep the first or the last in time", optional=True),
        Setting("filter_inter_by_user_or_item", FLAG, "drop interactions of users and items that were filtered out"),
        Setting("threshold", Mapped("{rating: 4}", Number()), "make 0/1 labels of a column", optional=True),
        Setting("USER_ID_FIELD", NAME, "column of the user"),
        Setting("ITEM_ID_FIELD", NAME, "column of the item"),
        Setting("TIME_FIELD", NAME, "column of the time"),
        Setting("RATING_FIELD", NAME, "column of the rating"),
        Setting("LABEL_FIELD", NAME, "column of 0/1 labels"),
        Setting("field_separator", NAME, "between the columns of atomic files"),
        Setting("seq_separator", NAME, "between the values of a list in atomic files"),
        Setting("load_col", Mapped("{inter: [user_id, item_id, timestamp]}"), "columns to read, by file ending", optional=True),
        Setting("unload_col", COLUMNS, "columns not to read, by file ending", optional=True),
        Setting("unused_col", COLUMNS, "columns to read for filters and forget afterwards", optional=True),
        Setting("benchmark_filename", Several(NAME, "[train, valid, test]", least=3), "endings of files that are split already", optional=True),
        Setting("alias_of_item_id", Several(NAME, "[item_id_list]", single=True), "further columns that hold items", optional=True),
        Setting("alias_of_user_id", Several(NAME, "[friend_id]", single=True), "further columns that hold users", optional=True),
        Setting("additional_feat_suffix", Several(NAME, "[itememb]", single=True), "endings of further files to read", optional=True),
        Setting("preload_weight", Mapped("{iid: item_emb}"), "columns with ready vectors, by their id column", optional=True),
        Setting("ITEM_LIST_LENGTH_FIELD", NAME, "name of RecBole's column for the length of a history"),
        Setting("LIST_SUFFIX", NAME, "ending of RecBole's columns that hold histories"),
    ],
    "Evaluation": [
        Setting("metrics", Several(Choice(METRICS, any_case=True), "[HIT, NDCG]", single=True), "what is measured"),
        Setting("topk", Several(whole(1), "[10, 50]", single=True), "cut-offs of the metrics"),
        Setting("valid_metric", NAME, "chooses the best epoch on validation; one of metrics, at one of topk"),
        Setting("eval_batch_size", whole(1), "users that are evaluated together"),
        Setting("metric_decimal_place", whole(0), "decimals of the metrics"),
        Setting("eval_args", Mapped(NO_SPLIT, keys=("split", "order", "group_by", "mode")), "how to split (LS, RS, TS, TIME or ALL, see docs/compare.md), and what to rank: all items (full), or the next item among N drawn ones (uniN)"),
        Setting("repeatable", FLAG, "whether what a user had may be recommended again; sequences need True"),
        Setting("tail_ratio", Number(0), "of TailPercentage: the share (or, from 1 on, the count) of items that are the tail; ~ is 0.1", default=None, optional=True),
    ],
    "Pre-training": [
        Setting("lambda", Number(0), "weight of the sequence-sequence task", BOTH),
        Setting("item_drop_ratio", SHARE, "share of items dropped in the item-drop view", BOTH),
        Setting("item_drop_coefficient", SHARE, "how often the second view drops items rather than words", BOTH),
        Setting("pretrain_pairs", Choice(("random", "segments")), "batches of random pairs (the paper), or of whole segments of sequences (faster)", PRETRAIN),
        Setting("contrastive_masking", Choice(("exclude", "authors")), "negatives of the row's own item: left out, or exp(0) added as the authors do", PRETRAIN),
        Setting("domain_sampling", POSITIVE, "temperature T: domains are drawn like (pairs)^(1/T); 1 is proportional", PRETRAIN),
        Setting("save_step", whole(0), "epochs between checkpoints; one more at the end", PRETRAIN),
        Setting("save_batches", whole(0), "also so many steps apart within an epoch; 0 is never", PRETRAIN),
        Setting("keep_checkpoints", whole(1), "the newest so many stay", PRETRAIN),
        Setting("rows_at_a_time", whole(0), "rows that go through the encoder together; 0 is all (faster, more memory)", PRETRAIN),
        Setting("features_on", Choice(("auto", "device", "disk")), "where the text features lie; auto in pre-training: the disk without a GPU; else: the disk with loss sampled or gbce and 200,000 items or more", ("SASRecText", "ZESRec", *BOTH)),
        Setting("backend", Choice(("nccl", "gloo")), "of several processes; ~ is nccl with a GPU", (*PACKED, *PRETRAIN), optional=True),
        Setting("valid_users", whole(0), "users held out in each domain, at most 5%", PRETRAIN),
        Setting("valid_every", whole(0), "epochs between zero-shot validations; 0 is never", PRETRAIN),
    ],
    "Baselines with attributes": [
        Setting("selected_features", Several(NAME, "[brand]", least=0), "columns of the items that are attributes of RecBole's kind", ("FDSAText",)),
        Setting("pooling_mode", Choice(("mean", "max", "sum")), "how the words of an attribute are pooled", ("FDSAText",)),
        Setting("item_attribute", NAME, "column of the items that is the attribute", S3REC),
        Setting("mask_ratio", SHARE, "share of the items that are masked", S3REC),
        Setting("aap_weight", Number(0), "weight of associated attributes", S3REC),
        Setting("mip_weight", Number(0), "weight of masked items", S3REC),
        Setting("map_weight", Number(0), "weight of masked attributes", S3REC),
        Setting("sp_weight", Number(0), "weight of segments", S3REC),
        Setting("pretrain_epochs", whole(0), "epochs of pre-training on this dataset", S3REC),
        Setting("pre_model_path", Text(".*", "a text"), "RecBole's; not used", S3REC),
    ],
    "RecBole's own models": [
        Setting("loss_type", Choice(("CE", "BPR")), "cross-entropy over all items, or one drawn item against the next one", RECBOLES),
        Setting("embedding_size", whole(1), "width of the items", RECBOLES),
        Setting("num_layers", whole(1), "layers of a recurrent network", RECBOLES),
        Setting("dropout_prob", DROPOUT, "dropout", RECBOLES),
        Setting("mask_ratio", SHARE, "BERT4Rec, S3Rec: share of the items that are masked", RECBOLES),
        Setting("ft_ratio", SHARE, "BERT4Rec: share of the samples that mask the last item", RECBOLES),
    ],
    "Where and how it runs": [
        Setting("checkpoint_dir", NAME, "folder of checkpoints and results"),
        Setting("use_gpu", FLAG, "compute on a GPU, if there is one"),
        Setting("gpu_id", OneOf((Text(), Several(whole(0), "[0]"))), "which GPU; empty is none"),
        Setting("worker", whole(0), "processes that load RecBole's batches"),
        Setting("show_progress", FLAG, "progress bars"),
        Setting("state", Choice(("INFO", "DEBUG", "WARNING", "ERROR", "CRITICAL"), any_case=True), "how much goes into the log"),
        Setting("log_wandb", FLAG, "report to Weights & Biases"),
        Setting("wandb_project", NAME, "its project"),
        Setting("save_dataset", FLAG, "RecBole's cache of datasets; ours load in seconds and are not cached"),
        Setting("dataset_save_path", NAME, "where that cache lies", optional=True),
        Setting("save_dataloaders", FLAG, "RecBole's cache of dataloaders"),
        Setting("dataloaders_save_path", NAME, "where that cache lies", optional=True),
    ],
}
# fmt: on
SETTINGS: dict[str, list[Setting]] = {}
for _group in TABLE.values():
    for _setting in _group:
        SETTINGS.setdefault(_setting.name, []).append(_setting)


def find(name: str, model: str) -> Setting | None:
    """The line of a setting as a model understands it; None if the table has none."""
    return next((setting for setting in SETTINGS.get(name, []) if setting.is_of(model)), None)


def shown(value: Any) -> str:
    """A value as it is written in a property file."""
    return "~" if value is None else repr(value)


def check(name: str, value: Any, model: str, where: str = "") -> None:
    """Check the value of one setting; a setting that is not in the table passes.

    Parameters
    ----------
    name, value, model
        What is set, for which model.
    where
        The file that says so, for the sentence.

    Raises
    ------
    UserError
        If the value is not of the setting's kind.
    """
    setting = find(name, model)
    if setting is None or setting.fits(value):
        return
    nothing = ", or ~ for nothing" if setting.optional else ""
    hint = f"; {setting.hint}" if setting.hint else ""
    if isinstance(setting.kind, Choice) and isinstance(value, str):
        close = difflib.get_close_matches(value, setting.kind.names, n=1)
        hint = f"; did you mean {close[0]}?" if close else hint
    raise UserError(f"{name} must be {setting.kind.words}{nothing}, not {shown(value)}{in_file(where)}{hint}")


def in_file(where: str) -> str:
    """`` (in FILE)``."""
    return f" (in {where})" if where else ""


def check_all(model: str, settings: Mapping[str, Any]) -> None:
    """Check every setting of a configuration, and what two of them must agree on.

    Raises
    ------
    UserError
        At the first that does not fit.
    """
    for name, value in settings.items():
        check(name, value, model)
    check_together(settings)


def check_together(settings: Mapping[str, Any]) -> None:
    """Raise `UserError` if two settings do not agree."""
    check_heads(settings)
    check_valid_metric(settings)


def check_heads(settings: Mapping[str, Any]) -> None:
    """Raise `UserError` if the heads do not divide the width."""
    width, heads = settings.get("hidden_size"), settings.get("n_heads")
    if isinstance(width, int) and isinstance(heads, int) and width % heads:
        raise UserError(f"hidden_size {width} is not a multiple of n_heads {heads}; change one of them")


def check_valid_metric(settings: Mapping[str, Any]) -> None:
    """Raise `UserError` if the metric that chooses the epoch is not among those that are measured."""
    metrics, topk, wanted = (settings.get(name) for name in ("metrics", "topk", "valid_metric"))
    if metrics is None or topk is None or wanted is None:
        return
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    cuts = [topk] if isinstance(topk, int) else list(topk)
    found = [name if name.lower() in AT_NO_K else f"{name}@{k}" for name in names for k in cuts]
    if str(wanted).lower() not in [name.lower() for name in found]:
        raise UserError(
            f"valid_metric {wanted} is not among what metrics and topk measure ({', '.join(dict.fromkeys(found))}); "
            "choose one of these, or add it"
        )


def defaults_of(model: str) -> dict[str, Any]:
    """Defaults that stand in the table, of the settings that a model takes."""
    return {
        setting.name: setting.default
        for settings in SETTINGS.values()
        for setting in settings
        if setting.default is not IN_PROPS and setting.is_of(model)
    }
