"""Every setting of the project's models: what it may be, its default, which models take it, and what it does.

One line is one setting. A class is a part of the settings that is read together (`Part.from_config`), once, where RecBole's
``Config`` comes in; what lies behind gets typed values. `setting_checks` answers a wrong value with one sentence; the page of
settings and ``--help-settings`` are printed from the same lines (`setting_page`). RecBole knows a setting as soon as its line
is here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recbole_unisrec.registry import MODELS, PACKED
from recbole_unisrec.setting_kinds import (
    DROPOUT,
    FLAG,
    NAME,
    POSITIVE,
    SHARE,
    Choice,
    Interval,
    Mapped,
    Number,
    OneOf,
    Several,
    Text,
    whole,
)
from recbole_unisrec.setting_parts import RECBOLES, Part, Setting, computed, setting

if TYPE_CHECKING:
    import torch

UNISREC = ("UniSRec",)
PRETRAIN = ("UniSRecPretrain",)
BOTH = (*UNISREC, *PRETRAIN)
TEXTS = tuple(name for name, entry in MODELS.items() if entry.reads_text)
KNN = ("TextKNN",)
CODES = ("VQRec",)
PATH = tuple(name for name in TEXTS if name in PACKED)
S3REC = ("S3RecText",)
INTERVALS = Interval()
FIELDS = Several(NAME, "[title, brand]")
COLUMNS = Mapped("{inter: [user_id, item_id, timestamp]}")
METRICS = (
    "Hit", "NDCG", "MRR", "MAP", "Recall", "Precision", "GAUC", "AUC", "LogLoss", "MAE", "RMSE", "ItemCoverage",
    "AveragePopularity", "ShannonEntropy", "GiniIndex", "TailPercentage",
)  # fmt: skip
AT_NO_K = ("gauc", "auc", "logloss", "mae", "rmse")  # metrics without a cut-off
# from so many on items go by in blocks, and ``auto`` chooses ID embeddings by rows and features in their file
MANY_ITEMS = 200_000
NO_SPLIT = "{split: {LS: valid_and_test}, order: TO, group_by: user, mode: full}"


# fmt: off
class EncoderSettings(Part, title="Model: encoder"):
    """The causal Transformer, under RecBole's names."""

    n_layers: int = setting(whole(1), "Transformer layers")
    n_heads: int = setting(whole(1), "attention heads; hidden_size is a multiple of it")
    hidden_size: int = setting(whole(1), "width of items and sequences")
    inner_size: int = setting(whole(1), "inner width of the feed-forward layers")
    hidden_dropout_prob: float = setting(DROPOUT, "dropout of inputs and layers")
    attn_dropout_prob: float = setting(DROPOUT, "dropout of attention weights")
    hidden_act: str = setting(Choice(("gelu", "relu", "swish", "tanh", "sigmoid")), "activation of the feed-forward layers")
    layer_norm_eps: float = setting(POSITIVE, "added to the variance in LayerNorm")
    initializer_range: float = setting(POSITIVE, "standard deviation of the initial weights")


class HistorySettings(Part, title="Model: items of the history"):
    """What becomes of items that a user had already."""

    history_bias: bool = setting(FLAG, "a learned addition to the scores of items of the history, by distance", PACKED, without=False)
    mask_history: bool = setting(FLAG, "items of the history come last in evaluation; training is as without it", PACKED, without=False)


class TextSettings(Part, title="Model: text features"):
    """Which text features are read, and how they are kept."""

    plm_suffix: tuple[str, ...] = setting(Several(NAME, "[feat1CLS, featImage]", single=True), "which features: the file dataset/NAME/NAME.SUFFIX; of several files the vectors stand side by side", (*TEXTS, *PRETRAIN))
    text_cols: tuple[str, ...] | None = setting(Several(NAME, "[title, brand]", single=True), "columns of NAME.item that make the text, in this order; ~ is the column text, else those that look like text", default=None, optional=True)
    plm_size: tuple[int, ...] | None = setting(Several(whole(1), "[384, 512]", single=True), "width of the text features (of several files a list); ~ takes what the files say", (*TEXTS, *PRETRAIN), optional=True)
    feature_scaling: str = setting(Choice(("none", "standardize", "whiten")), "of the text features before the adaptor; the paper has none", (*BOTH, *KNN), without="none")
    feature_precision: str = setting(Choice(("fp32", "bf16", "fp16")), "of the text features in memory", BOTH, without="fp32")
    features_on: str = setting(Choice(("auto", "device", "disk")), "where the text features lie; auto in pre-training: the disk without a GPU; else: the disk with loss sampled or gbce and 200,000 items or more", ("SASRecText", "ZESRec", *BOTH), without="auto")


class AdaptorSettings(Part, title="Model: adaptor"):
    """The mixture of whitening experts (paper section 3.1), and the form of the model."""

    train_stage: str = setting(Choice(("inductive_ft", "transductive_ft", "pretrain")), "text only, or text and item IDs; pretrain goes with --train_stage pretrain", BOTH)
    temperature: float = setting(POSITIVE, "of the softmax over cosines", BOTH)
    n_exps: int = setting(whole(1), "experts of the adaptor", BOTH)
    adaptor_dropout_prob: float = setting(DROPOUT, "dropout of the text features before each expert", BOTH)
    gate_noise: bool = setting(FLAG, "noisy gate; False is an ablation", BOTH, without=True)
    whitening: bool = setting(FLAG, "a learned shift before each expert; False is an ablation", BOTH, without=True)
    mask_unseen_ids: bool = setting(FLAG, "transductive: items without training interactions are their text alone", BOTH, without=False)


class TextPathSettings(Part, title="Model: text path"):
    """The text's own path to the scores (`model.text_path`)."""

    text_path: bool = setting(FLAG, "the text's own path to the scores, beside the encoder (docs/results.md)", (*PATH, *PRETRAIN), without=False)
    text_path_alone: float = setting(DROPOUT, "share of the predictions of training that are made without the path", (*PATH, *PRETRAIN), without=0.5)
    text_path_decay: float | None = setting(Number(0, 1, above=True), "where the path starts: each item of the history counts so much of the next; ~ is chosen on validation", (*PATH, *PRETRAIN), optional=True)
    text_path_popularity: float | None = setting(Number(0), "where the path starts: weight of log(1 + how often an item occurs in training), of that of the texts; ~ is chosen on validation", (*PATH, *PRETRAIN), optional=True)


class ZESRecSettings(Part, title="Model: ZESRec"):
    """Of `model.text_baselines.ZESRec`."""

    offset_penalty: float = setting(Number(0), "weight of the mean squared length of the item offsets", ("ZESRec",))


class TedRecSettings(Part, title="Model: TedRec"):
    """Of `model.tedrec.TedRec`."""

    temperature: float = setting(POSITIVE, "of the softmax over cosines", ("TedRec",))
    n_exps: int = setting(whole(1), "experts of the adaptor", ("TedRec",))
    adaptor_dropout_prob: float = setting(DROPOUT, "dropout of the text features before each expert", ("TedRec",))


class CodeSettings(Part, title="Model: VQ-Rec"):
    """Of `model.vqrec.VQRec`."""

    temperature: float = setting(POSITIVE, "of the softmax over cosines", CODES)
    n_codes: int = setting(whole(1), "codes of an item; a divisor of the width of the text features", CODES)
    code_size: int = setting(whole(2), "values of a code", CODES)


class NearestTextSettings(Part, title="Model: nearest texts"):
    """Of `model.text_knn.TextKNN`."""

    decay: float = setting(Number(0, 1, above=True), "each item of the history counts so much of the next", KNN)
    popularity_weight: float = setting(Number(0), "of log(1 + how often an item occurs in training)", KNN)


class LossSettings(Part, title="Loss"):
    """What is minimised, over which items."""

    loss_type: str = setting(Choice(("CE",)), "cross-entropy over all items", tuple(MODELS), hint="RecBole's own models take BPR too", without="CE")
    loss: str = setting(Choice(("full", "sampled", "gbce")), "softmax over all items, over a sample of them, or gBCE over a sample", PACKED, without="full")
    negatives: str = setting(Choice(("uniform", "popularity", "batch", "uniform+batch", "popularity+batch")), "loss sampled: how the sample is drawn", PACKED, without="uniform")
    n_negatives: int = setting(whole(1), "items drawn for a batch, which all its pairs share", PACKED, without=1024)
    logq: bool = setting(FLAG, "loss sampled: weigh negatives by how often they were to be expected", PACKED, without=True)
    gbce_t: float = setting(SHARE, "loss gbce: calibration t, from 0 (binary cross-entropy) to 1", PACKED, without=0.75)


class TransferSettings(Part, title="Start from a pre-trained model"):
    """What comes from a file, and what of it learns."""

    pretrained: str | None = setting(NAME, "checkpoint to start from: ours, or the authors' .pth", BOTH, optional=True)
    freeze: str | None = setting(Choice(("encoder", "adaptor", "none")), "with pretrained: what does not learn; ~ is encoder", BOTH, optional=True)
    adaptor_share: float = setting(SHARE, "with pretrained: how much of its adaptor to start from; the rest are new weights", BOTH, without=1.0)


class TrainingSettings(Part, title="Training"):
    """Epochs, batches, optimizer, arithmetic."""

    epochs: int = setting(whole(0), "at most; 0 evaluates without training")
    stopping_step: int = setting(whole(0), "validations without a better valid_metric until the end, with ema_decay not before 3 / (1 - ema_decay) steps; in pre-training 0 never stops early")
    eval_step: int = setting(whole(0), "epochs between validations; 0 is never")
    train_batch_size: int = setting(whole(1), "(prefix, next item) pairs a step")
    learning_rate: float = setting(POSITIVE, "of the optimizer")
    learner: str = setting(Choice(("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam"), any_case=True), "the optimizer", without="adam")
    weight_decay: float = setting(Number(0), "of the optimizer")
    clip_grad_norm: dict[str, Any] | None = setting(Mapped("{max_norm: 1.0}", keys=("max_norm", "norm_type", "error_if_nonfinite", "foreach")), "longest gradient; ~ does not cut it", optional=True)
    train_mode: str = setting(Choice(("packed", "prefix")), "all prefixes of a sequence in one pass, or one by one (RecBole's way, slow)", PACKED, without="packed")
    long_sequences: str = setting(Choice(("blocks", "exact")), "packed, users beyond the window: half-overlapping blocks, or one by one", PACKED, without="blocks")
    item_optimizer: str = setting(Choice(("auto", "adam", "rows")), "of ID embeddings: all rows, or those of the step; auto is rows with many items", PACKED, without="auto")
    precision: str = setting(Choice(("fp32", "bf16")), "of matrix products", (*PACKED, *PRETRAIN), without="fp32")
    ema_decay: float | None = setting(Number(0, 1, above=True, below=True), "evaluate a moving average of the weights, for example 0.98; ~ is off", PACKED, optional=True)
    graphs: str = setting(Choice(("auto", "compiled", "off")), "on a GPU: record steps as CUDA graphs; compiled: compile them first, for long runs", (*PACKED, *PRETRAIN), without="auto")
    train_neg_sample_args: dict[str, Any] | None = setting(Mapped("{distribution: uniform, sample_num: 1}"), "negatives of RecBole's models; ~ is none, which ours need", optional=True)
    enable_amp: bool = setting(FLAG, "RecBole's mixed precision; of ours, precision: bf16")
    enable_scaler: bool = setting(FLAG, "with enable_amp: scale the loss (GPU)")
    shuffle: bool = setting(FLAG, "draw the order of training anew each epoch")
    seed: int = setting(whole(0, 2**32 - 1), "of all random numbers")
    reproducibility: bool = setting(FLAG, "the same numbers each time")
    loss_decimal_place: int = setting(whole(0), "decimals of the loss in the log")


class DataSettings(Part, title="Data"):
    """Which interactions there are, and what the columns are called."""

    data_path: str = setting(NAME, "folder that the dataset's folder lies in")
    window: int = setting(whole(1), "longest history; older items are cut off", name="MAX_ITEM_LIST_LENGTH")
    cold_items: float | None = setting(Number(0, 1, above=True, below=True), "share of items held out of training, to test on new ones; ~ is none", optional=True)
    cold_by: str = setting(Choice(("random", "time")), "which items are held out: drawn at random, or the newest", without="random")
    eval_users: int | None = setting(whole(1), "validate and test on at most so many users, drawn once; ~ is all", PACKED, optional=True)
    train_users: float | None = setting(Number(0, 1, above=True), "share of users to learn from, to test with little data; ~ is all", optional=True)
    user_inter_num_interval: Any = setting(INTERVALS, "users with so many interactions stay", optional=True)
    item_inter_num_interval: Any = setting(INTERVALS, "items with so many interactions stay", optional=True)
    val_interval: dict[str, Any] | None = setting(Mapped('{rating: "[4,inf)"}', Interval(tokens=True)), "interactions with values within these stay", optional=True)
    rm_dup_inter: str | None = setting(Choice(("first", "last")), "of interactions of one user with one item, keep the first or the last in time", optional=True)
    filter_inter_by_user_or_item: bool = setting(FLAG, "drop interactions of users and items that were filtered out")
    threshold: dict[str, Any] | None = setting(Mapped("{rating: 4}", Number()), "make 0/1 labels of a column", optional=True)
    user_field: str = setting(NAME, "column of the user", name="USER_ID_FIELD")
    item_field: str = setting(NAME, "column of the item", name="ITEM_ID_FIELD")
    time_field: str = setting(NAME, "column of the time", name="TIME_FIELD")
    rating_field: str = setting(NAME, "column of the rating", name="RATING_FIELD")
    label_field: str = setting(NAME, "column of 0/1 labels", name="LABEL_FIELD")
    field_separator: str = setting(NAME, "between the columns of atomic files")
    seq_separator: str = setting(NAME, "between the values of a list in atomic files")
    load_col: dict[str, Any] | None = setting(Mapped("{inter: [user_id, item_id, timestamp]}"), "columns to read, by file ending", optional=True)
    unload_col: dict[str, Any] | None = setting(COLUMNS, "columns not to read, by file ending", optional=True)
    unused_col: dict[str, Any] | None = setting(COLUMNS, "columns to read for filters and forget afterwards", optional=True)
    benchmark_filename: tuple[str, ...] | None = setting(Several(NAME, "[train, valid, test]", least=3), "endings of files that are split already", optional=True)
    alias_of_item_id: tuple[str, ...] | None = setting(Several(NAME, "[item_id_list]", single=True), "further columns that hold items", optional=True)
    alias_of_user_id: tuple[str, ...] | None = setting(Several(NAME, "[friend_id]", single=True), "further columns that hold users", optional=True)
    additional_feat_suffix: tuple[str, ...] | None = setting(Several(NAME, "[itememb]", single=True), "endings of further files to read", optional=True)
    preload_weight: dict[str, Any] | None = setting(Mapped("{iid: item_emb}"), "columns with ready vectors, by their id column", optional=True)
    length_field: str = setting(NAME, "name of RecBole's column for the length of a history", name="ITEM_LIST_LENGTH_FIELD")
    list_suffix: str = setting(NAME, "ending of RecBole's columns that hold histories", name="LIST_SUFFIX")
    dataset: str = computed(name="dataset")
    encoding: str | None = computed(name="encoding")


class EvaluationSettings(Part, title="Evaluation"):
    """How data is split, and what is measured."""

    metrics: tuple[str, ...] = setting(Several(Choice(METRICS, any_case=True), "[HIT, NDCG]", single=True), "what is measured")
    topk: tuple[int, ...] = setting(Several(whole(1), "[10, 50]", single=True), "cut-offs of the metrics")
    valid_metric: str = setting(NAME, "chooses the best epoch on validation; one of metrics, at one of topk")
    eval_batch_size: int = setting(whole(1), "users that are evaluated together")
    metric_decimal_place: int = setting(whole(0), "decimals of the metrics")
    eval_args: dict[str, Any] = setting(Mapped(NO_SPLIT, keys=("split", "order", "group_by", "mode")), "how to split (LS, RS, TS, TIME or ALL, see docs/compare.md), and what to rank: all items (full), or the next item among N drawn ones (uniN)")
    repeatable: bool = setting(FLAG, "whether what a user had may be recommended again; sequences need True")
    tail_ratio: float | None = setting(Number(0), "of TailPercentage: the share (or, from 1 on, the count) of items that are the tail; ~ is 0.1", default=None, optional=True)
    eval_type: Any = computed(name="eval_type")


class PretrainSettings(Part, title="Pre-training"):
    """Of several domains in one training."""

    sequence_weight: float = setting(Number(0), "weight of the sequence-sequence task", BOTH, name="lambda")
    plm_suffix_aug: str = setting(NAME, "text features with words dropped, for pre-training", BOTH)
    item_drop_ratio: float = setting(SHARE, "share of items dropped in the item-drop view", BOTH)
    item_drop_coefficient: float = setting(SHARE, "how often the second view drops items rather than words", BOTH)
    pretrain_pairs: str = setting(Choice(("random", "segments")), "batches of random pairs (the paper), or of whole segments of sequences (faster)", PRETRAIN, without="random")
    contrastive_masking: str = setting(Choice(("exclude", "authors")), "negatives of the row's own item: left out, or exp(0) added as the authors do", PRETRAIN, without="exclude")
    domain_sampling: float = setting(POSITIVE, "temperature T: domains are drawn like (pairs)^(1/T); 1 is proportional", PRETRAIN)
    save_step: int = setting(whole(0), "epochs between checkpoints; one more at the end", PRETRAIN)
    save_batches: int = setting(whole(0), "also so many steps apart within an epoch; 0 is never", PRETRAIN)
    keep_checkpoints: int = setting(whole(1), "the newest so many stay", PRETRAIN)
    rows_at_a_time: int = setting(whole(0), "rows that go through the encoder together; 0 is all (faster, more memory)", PRETRAIN, without=2048)
    valid_users: int = setting(whole(0), "users held out in each domain, at most 5%", PRETRAIN)
    valid_every: int = setting(whole(0), "epochs between zero-shot validations; 0 is never", PRETRAIN)


class FDSASettings(Part, title="FDSA with text features"):
    """Of RecBole's FDSA (`model.attribute_baselines`)."""

    selected_features: tuple[str, ...] = setting(Several(NAME, "[brand]", least=0), "columns of the items that are attributes of RecBole's kind", ("FDSAText",))
    pooling_mode: str = setting(Choice(("mean", "max", "sum")), "how the words of an attribute are pooled", ("FDSAText",))


class S3RecSettings(Part, title="S3-Rec with text features"):
    """Of RecBole's S3-Rec (`model.attribute_baselines`)."""

    item_attribute: str = setting(NAME, "column of the items that is the attribute", S3REC)
    mask_ratio: float = setting(SHARE, "share of the items that are masked", S3REC)
    aap_weight: float = setting(Number(0), "weight of associated attributes", S3REC)
    mip_weight: float = setting(Number(0), "weight of masked items", S3REC)
    map_weight: float = setting(Number(0), "weight of masked attributes", S3REC)
    sp_weight: float = setting(Number(0), "weight of segments", S3REC)
    pretrain_epochs: int = setting(whole(0), "epochs of pre-training on this dataset", S3REC)
    pre_model_path: str = setting(Text(".*", "a text"), "RecBole's; not used", S3REC)


class RecBolesSettings(Part, title="RecBole's own models"):
    """What RecBole itself reads, for its own models."""

    loss_type: str = setting(Choice(("CE", "BPR")), "cross-entropy over all items, or one drawn item against the next one", RECBOLES)
    embedding_size: int = setting(whole(1), "width of the items", RECBOLES)
    num_layers: int = setting(whole(1), "layers of a recurrent network", RECBOLES)
    dropout_prob: float = setting(DROPOUT, "dropout", RECBOLES)
    mask_ratio: float = setting(SHARE, "BERT4Rec, S3Rec: share of the items that are masked", RECBOLES)
    ft_ratio: float = setting(SHARE, "BERT4Rec: share of the samples that mask the last item", RECBOLES)


class RunSettings(Part, title="Where and how it runs"):
    """Folders, devices, logs."""

    checkpoint_dir: str = setting(NAME, "folder of checkpoints and results")
    use_gpu: bool = setting(FLAG, "compute on a GPU, if there is one")
    gpu_id: Any = setting(OneOf((Text(), Several(whole(0), "[0]"))), "which GPU; empty is none")
    worker: int = setting(whole(0), "processes that load RecBole's batches")
    show_progress: bool = setting(FLAG, "progress bars")
    state: str = setting(Choice(("INFO", "DEBUG", "WARNING", "ERROR", "CRITICAL"), any_case=True), "how much goes into the log")
    log_wandb: bool = setting(FLAG, "report to Weights & Biases")
    wandb_project: str = setting(NAME, "its project")
    save_dataset: bool = setting(FLAG, "RecBole's cache of datasets; ours load in seconds and are not cached")
    dataset_save_path: str | None = setting(NAME, "where that cache lies", optional=True)
    save_dataloaders: bool = setting(FLAG, "RecBole's cache of dataloaders")
    dataloaders_save_path: str | None = setting(NAME, "where that cache lies", optional=True)
    backend: str | None = setting(Choice(("nccl", "gloo")), "of several processes; ~ is nccl with a GPU", (*PACKED, *PRETRAIN), optional=True)
    model: str = computed(name="model")
    dataset: str = computed(name="dataset")
    device: torch.device = computed(name="device")
    model_type: Any = computed(name="MODEL_TYPE")
    single_process: bool | None = computed(name="single_spec")
    local_rank: int | None = computed(name="local_rank")


# fmt: on
PARTS: tuple[type[Part], ...] = (
    EncoderSettings,
    HistorySettings,
    TextSettings,
    AdaptorSettings,
    TextPathSettings,
    ZESRecSettings,
    TedRecSettings,
    CodeSettings,
    NearestTextSettings,
    LossSettings,
    TransferSettings,
    TrainingSettings,
    DataSettings,
    EvaluationSettings,
    PretrainSettings,
    FDSASettings,
    S3RecSettings,
    RecBolesSettings,
    RunSettings,
)
TABLE: dict[str, list[Setting]] = {part.title: list(part.lines.values()) for part in PARTS}
SETTINGS: dict[str, list[Setting]] = {}
for _lines in TABLE.values():
    for _line in _lines:
        SETTINGS.setdefault(_line.name, []).append(_line)
