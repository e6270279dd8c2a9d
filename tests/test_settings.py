"""Every line of the table of settings, beyond its bounds and within; and what property files of others may hold."""

import ast
import sys
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest
from recbole.config import Config
from recbole.evaluator import metric_types

from dataset_tools.common import run_cli
from recbole_unisrec import setting_page
from recbole_unisrec.cli import train_command
from recbole_unisrec.errors import UserError
from recbole_unisrec.registry import MODELS
from recbole_unisrec.setting_checks import check, defaults_of, find
from recbole_unisrec.setting_kinds import Choice, Flag, Kind, Mapped, Number, Several, Text
from recbole_unisrec.setting_parts import IN_PROPS, RECBOLES, Part, Setting
from recbole_unisrec.setting_table import (
    METRICS,
    PARTS,
    SETTINGS,
    TABLE,
    DataSettings,
    EncoderSettings,
    EvaluationSettings,
    LossSettings,
    TextPathSettings,
    TextSettings,
    ZESRecSettings,
)
from recbole_unisrec.settings import build_config, known_settings

ALL = [setting for settings in TABLE.values() for setting in settings]
ROOT = Path(__file__).resolve().parents[1]


def outside(kind: Kind) -> list[Any]:
    """Values just beyond each bound, outside the choices, and of other types."""
    found: list[Any] = [["a list", {}]] if not isinstance(kind, Several) else [[], {}]
    if isinstance(kind, Number):
        found += ["fast", True, float("nan"), float("inf")]
        step = 1 if kind.whole else 1e-6
        if kind.low is not None:
            found.append(kind.low if kind.above else kind.low - step)
        if kind.high is not None:
            found.append(kind.high if kind.below else kind.high + step)
        if kind.whole:
            found.append(1.5)
    if isinstance(kind, Choice):
        found += [
            "foo",
            True,
            1,
            *([name.upper() for name in kind.names if name.islower()] if not kind.any_case else []),
        ]
    if isinstance(kind, Flag):
        found += ["yes", 0, 1]
    if isinstance(kind, Text) and kind.pattern not in ("", ".*"):
        found += ["foo", "[5,inf", "5", 5]
    if isinstance(kind, Several):
        found = [[], *[[value] for value in outside(kind.of)], *([] if kind.single else ["one"])]
        found = found[1:] if kind.least == 0 else found
    if isinstance(kind, Mapped):
        found += ["foo", 1]
        found += [{"x": value} for value in outside(kind.of)] if kind.of else []
        found += [{"nobody": 1}] if kind.keys else []
    return found


def inside(kind: Kind) -> list[Any]:
    """Values at the bounds, and every choice."""
    if isinstance(kind, Number):
        ends = [(kind.low, kind.above, 1), (kind.high, kind.below, -1)]
        step = 1 if kind.whole else 1e-6
        return [end + way * step if out else end for end, out, way in ends if end is not None]
    if isinstance(kind, Choice):
        return [*kind.names, *([name.upper() for name in kind.names] if kind.any_case else [])]
    return [True, False] if isinstance(kind, Flag) else []


def somebody(setting: Setting) -> str:
    """A model that takes a setting."""
    return {(): "UniSRec", RECBOLES: "BERT4Rec"}.get(setting.models) or setting.models[0]


@pytest.mark.parametrize("setting", ALL, ids=lambda s: s.name)
def test_values_beyond_each_bound_are_one_sentence(setting: Setting) -> None:
    wrong = outside(setting.kind)
    assert wrong
    for value in [*wrong, *([] if setting.optional else [None])]:
        with pytest.raises(UserError) as error:
            check(setting.name, value, somebody(setting), "my.yaml")
        message = str(error.value)
        assert message.startswith(f"{setting.name} must be {setting.kind.words}")
        assert "(in my.yaml)" in message
        assert "\n" not in message
    for value in [*inside(setting.kind), *([None] if setting.optional else [])]:
        check(setting.name, value, somebody(setting))


@pytest.mark.parametrize("model", [*MODELS, "SASRec", "GRU4Rec", "BERT4Rec"])
def test_defaults_are_within_their_bounds(model: str) -> None:
    for name, value in setting_page.defaults(model).items():
        if name not in ("train_neg_sample_args",):
            check(name, value, model)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.usefixtures("ring")
def test_each_setting_of_our_models_is_in_the_table_and_known_to_recbole(model: str) -> None:
    known = known_settings(model, "ring")
    missing = {s.name for s in ALL if model in s.models} - known
    assert not missing
    props = {
        name for file in MODELS[model].props for name in setting_page.yaml_file(setting_page.props_folder() / file)
    }
    assert not [name for name in props if find(name, model) is None and name != "train_stage"]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.title)
def test_each_line_is_a_field_of_its_type(part: type[Part]) -> None:
    assert {field.name for field in fields(part) if "computed" not in field.metadata} == set(part.lines)
    written = {field.name: field.type for field in fields(part)}
    for field, line in part.lines.items():
        nothing = " | None" if line.optional and line.kind.python != "Any" else ""
        assert written[field] == f"{line.kind.python}{nothing}", line.name
        assert all(line.fits(value) for value in (line.default, line.without) if value is not IN_PROPS), line.name


def test_every_part_is_in_the_table() -> None:
    assert set(Part.__subclasses__()) == set(PARTS)
    assert len({part.title for part in PARTS}) == len(PARTS) == len(TABLE)


def test_defaults_of_the_table_are_those_of_most_property_files() -> None:
    for setting in ALL:
        found = [setting_page.defaults(model).get(setting.name) for model in MODELS if setting.is_of(model)]
        for usual in (setting.default, setting.without):
            assert usual is IN_PROPS or found.count(usual) * 2 > len(found), (setting.name, found)


@pytest.mark.usefixtures("ring")
def test_settings_are_read_in_their_types() -> None:
    config = build_config("UniSRec", "ring", [], {"plm_suffix": "featA", "topk": 5, "valid_metric": "NDCG@5"})
    encoder, text = EncoderSettings.from_config(config), TextSettings.from_config(config)
    assert (encoder.n_layers, type(encoder.hidden_dropout_prob)) == (2, float)
    assert text.plm_suffix == ("featA",)
    evaluation, data = EvaluationSettings.from_config(config), DataSettings.from_config(config)
    assert evaluation.topk == (5,)
    assert (data.item_field, data.dataset, data.window) == ("item_id", "ring", 50)
    with pytest.raises(FrozenInstanceError):
        data.window = 3  # type: ignore[misc]


# of these `config` is the JSON of a saved model or of a stored run
OTHER_CONFIGS = {"serving/reading.py", "leaderboard/archive.py", "leaderboard/report.py", "leaderboard/stored.py"}


def test_nothing_but_the_parts_reads_recboles_config() -> None:
    package = ROOT / "recbole_unisrec"
    found = []
    for file in sorted(package.rglob("*.py")):
        if file.relative_to(package).as_posix() in OTHER_CONFIGS:
            continue
        read = [
            node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load) and isinstance(node.slice, ast.Constant)
        ]  # fmt: skip
        config = [node for node in read if ast.unparse(node.value).split(".")[-1] == "config"]
        found += [f"{file.name} line {node.lineno}: {ast.unparse(node)}" for node in config]
    assert not found, "read it as a part of setting_table, like EncoderSettings.from_config(config)"


def test_a_value_that_is_not_there_is_the_default_or_one_sentence() -> None:
    assert LossSettings.from_config({}) == LossSettings()
    assert TextPathSettings.from_config({"text_path": None}).text_path is False
    with pytest.raises(UserError, match=r"^offset_penalty must be a number of 0 or more, not ~$"):
        ZESRecSettings.from_config({})
    with pytest.raises(UserError, match=r"^loss must be one of full, sampled, gbce, not 'ful'; did you mean full\?$"):
        LossSettings.from_config({"loss": "ful"})


def test_no_name_stands_twice_for_one_model() -> None:
    for name, lines in SETTINGS.items():
        for model in (*MODELS, "SASRec"):
            assert sum(line.is_of(model) for line in lines) <= 1, name


def test_metrics_are_recboles() -> None:
    assert {name.lower() for name in METRICS} == set(metric_types)


def test_the_page_is_current() -> None:
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == setting_page.markdown(), (
        "run `python -m recbole_unisrec.setting_page > docs/settings.md`"
    )


def test_help_lists_the_settings_of_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(train_command, ["--help-settings"]) == 0
    everything = capsys.readouterr().out
    assert all(f"  {setting.name} = " in everything for setting in ALL)
    assert run_cli(train_command, ["--help-settings", "--model", "SASRecPacked"]) == 0
    mine = capsys.readouterr().out
    assert "history_bias = False" in mine
    assert "n_exps" not in mine


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("--temperature=0", "temperature must be a number above 0, not 0"),
        ("--temperature=-1", "temperature must be a number above 0, not -1"),
        ("--train_batch_size=0", "train_batch_size must be a whole number of 1 or more, not 0"),
        ("--eval_batch_size=0", "eval_batch_size must be a whole number of 1 or more, not 0"),
        ("--n_exps=0", "n_exps must be a whole number of 1 or more, not 0"),
        ("--n_layers=0", "n_layers must be a whole number of 1 or more, not 0"),
        ("--n_heads=0", "n_heads must be a whole number of 1 or more, not 0"),
        ("--hidden_size=0", "hidden_size must be a whole number of 1 or more, not 0"),
        ("--MAX_ITEM_LIST_LENGTH=0", "MAX_ITEM_LIST_LENGTH must be a whole number of 1 or more, not 0"),
        ("--topk=[]", "topk must be a list like [10, 50], each a whole number of 1 or more, not []"),
        ("--hidden_act=foo", "hidden_act must be one of gelu, relu, swish, tanh, sigmoid, not 'foo'"),
        ("--valid_metric=MRR@10", "valid_metric MRR@10 is not among what metrics and topk measure (HIT@10, HIT@50, NDCG@10"),
        ("--topk=20", "valid_metric NDCG@10 is not among what metrics and topk measure (HIT@20, NDCG@20)"),
        ("--seed=-1", "seed must be a whole number from 0 to 4294967295, not -1"),
        ("--learning_rate=-1", "learning_rate must be a number above 0, not -1"),
        ("--hidden_dropout_prob=1.5", "hidden_dropout_prob must be a number from 0 to below 1, not 1.5"),
        ("--initializer_range=-1", "initializer_range must be a number above 0, not -1"),
        ("--learner=adan", "learner must be one of adam, adamw, sgd, adagrad, rmsprop, sparse_adam, not 'adan'; did you mean adam?"),
        ("--train_mode=foo", "train_mode must be one of packed, prefix, not 'foo'"),
        ("--long_sequences=foo", "long_sequences must be one of blocks, exact, not 'foo'"),
        ("--metric_decimal_place=-1", "metric_decimal_place must be a whole number of 0 or more, not -1"),
        ("--loss_type=BPR", "loss_type must be CE, not 'BPR'; RecBole's own models take BPR too"),
        ("--user_inter_num_interval=5", 'user_inter_num_interval must be an interval like "[5,inf)", or ~ for nothing, not 5'),
        ("--clip_grad_norm=1.0", "clip_grad_norm must be a mapping like {max_norm: 1.0}, or ~ for nothing, not 1.0"),
        ("--metrics=[NGCD]", "metrics must be a list like [HIT, NDCG], each one of Hit, NDCG"),
        ("--n_layers=~", "n_layers must be a whole number of 1 or more, not ~"),
        ("--mask_ratio=0.2", "UniSRec has no mask_ratio; it goes with BERT4Rec"),
    ],
)  # fmt: skip
def test_wrong_values_on_the_command_line(
    ring: Path, capsys: pytest.CaptureFixture[str], setting: str, message: str
) -> None:
    assert run_cli(train_command, ["--dataset", "ring", "--epochs", "1", "--use_gpu=False", setting]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {message}")
    assert printed.err.count("\n") == 1
    assert not Path("saved").exists()


@pytest.mark.parametrize(
    ("model", "setting", "message"),
    [
        ("SASRec", "--n_heads=0", "n_heads must be"),
        ("SASRec", "--n_heads=7", "hidden_size 300 is not a multiple of n_heads 7"),
        ("SASRec", "--valid_metric=MRR@10", "valid_metric MRR@10 is not among"),
        ("GRU4Rec", "--dropout_prob=1.5", "dropout_prob must be a number from 0 to below 1"),
        ("BERT4Rec", "--mask_ratio=2", "mask_ratio must be a number from 0 to 1, not 2"),
        ("NARM", "--learner=foo", "learner must be one of adam"),
    ],
)
def test_recboles_models_are_checked_too(
    ring: Path, capsys: pytest.CaptureFixture[str], model: str, setting: str, message: str
) -> None:
    assert run_cli(train_command, ["--model", model, "--dataset", "ring", "--use_gpu=False", setting]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("ring")
def test_run_recbole_is_checked_in_its_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["test"])
    with pytest.raises(UserError, match="n_exps must be a whole number of 1 or more, not 0"):
        Config(model="UniSRec", dataset="ring", config_dict={"n_exps": 0})
    Path("my.yaml").write_text("temperature: -1\n")
    with pytest.raises(UserError, match="temperature must be a number above 0, not -1"):
        Config(model="UniSRec", dataset="ring", config_file_list=["my.yaml"])


@pytest.mark.usefixtures("ring")
def test_a_default_in_the_table_is_a_setting_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Setting("depth_of_water", Number(0), "a test", ("UniSRec",), default=2.5)
    monkeypatch.setitem(SETTINGS, line.name, [line])
    assert defaults_of("UniSRec")["depth_of_water"] == 2.5
    assert build_config("UniSRec", "ring", [], {})["depth_of_water"] == 2.5
    assert build_config("UniSRec", "ring", [], {"depth_of_water": 4})["depth_of_water"] == 4
    with pytest.raises(UserError, match="depth_of_water must be a number of 0 or more, not -1"):
        build_config("UniSRec", "ring", [], {"depth_of_water": -1})
    with pytest.raises(UserError, match="unknown setting 'depth_of_water'"):
        build_config("SASRecPacked", "ring", [], {"depth_of_water": 4})


# --- one property file for several models, and of RecBole 0.x


@pytest.mark.usefixtures("ring")
def test_a_file_for_several_models_says_what_is_left_out(shared: Path) -> None:
    file = str(shared / "cases" / "recbole" / "shared_by_models.yaml")
    said: list[str] = []
    config = build_config("UniSRec", "ring", [file], {}, said.append)
    assert config["hidden_size"] == 64
    assert (config["metrics"], config["topk"]) == (["Recall", "NDCG"], [10])
    assert config["eval_args"]["split"] == {"LS": "valid_and_test"}
    assert "mask_ratio" not in config.final_config_dict
    (left,) = [line for line in said if "left out" in line]
    assert "mask_ratio (of BERT4Rec, S3Rec" in left
    assert "embedding_size (of " in left
    assert any("eval_setting is a name of RecBole 0.x" in line and "eval_args" in line for line in said)
    assert any("neg_sampling is a name of RecBole 0.x" in line and "train_neg_sample_args" in line for line in said)
    said.clear()
    build_config("BERT4Rec", "ring", [file], {}, said.append)
    assert not any("mask_ratio" in line for line in said)


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("eval_setting: RO_RS,full", "eval_args",
         {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user", "mode": {"valid": "full", "test": "full"}}),
        ("min_user_inter_num: 5", "user_inter_num_interval", "[5,inf)"),
        ("lowest_val: {rating: 3}", "val_interval", {"rating": "[3,inf)"}),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("ring")
def test_names_of_recbole_0_are_read_as_todays(line: str, name: str, value: Any) -> None:
    Path("old.yaml").write_text(line + "\n")
    said: list[str] = []
    assert build_config("SASRecPacked", "ring", ["old.yaml"], {}, said.append)[name] == value
    assert len(said) == 1
    assert name in said[0]


@pytest.mark.usefixtures("ring")
def test_an_old_name_that_cannot_be_read_is_an_error_with_todays_name() -> None:
    Path("old.yaml").write_text("split_ratio: [0.7, 0.2, 0.1]\n")
    with pytest.raises(UserError, match=r"split_ratio is a name of RecBole 0.x \(in old.yaml\); today it is eval_args"):
        build_config("UniSRec", "ring", ["old.yaml"], {})


@pytest.mark.usefixtures("ring")
def test_a_name_that_nobody_knows_stays_an_error() -> None:
    Path("my.yaml").write_text("learning_rat: 0.1\n")
    with pytest.raises(UserError, match=r"unknown setting 'learning_rat' \(in my.yaml\); did you mean learning_rate\?"):
        build_config("UniSRec", "ring", ["my.yaml"], {})
