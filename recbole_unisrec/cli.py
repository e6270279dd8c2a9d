"""The command ``unisrec`` and the script ``run_unisrec.py``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from dataset_tools import __version__
from dataset_tools.arguments import POOLINGS, add_usual
from dataset_tools.common import UserError, run_cli
from recbole_unisrec.leaderboard.arguments import leaderboard_parser

COMMANDS: dict[str, str] = {"train": "train and evaluate models (the same as run_unisrec.py)"}


def split_settings(arguments: list[str], parser: argparse.ArgumentParser) -> tuple[list[str], dict[str, str]]:
    """Separate RecBole-style ``--name=value`` settings from the command's own options."""
    own = {a for action in parser._actions for a in action.option_strings}
    settings, rest = {}, []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name.startswith("--") and equals and name not in own:
            settings[name[2:]] = value
        else:
            rest.append(argument)
    return rest, settings


def train_parser() -> argparse.ArgumentParser:
    """Options of ``train``."""
    parser = argparse.ArgumentParser(
        prog="run_unisrec.py",
        description="Train and evaluate UniSRec, SASRec and RecBole's other sequential models on one dataset.",
        epilog="Any setting can be given as --name=value, for example --learning_rate=0.0003 --topk=[10,20]. "
        "--help-settings lists them all with range, default and meaning (the same as docs/settings.md). "
        "--leaderboard compares models over seeds: see --leaderboard --help.",
    )
    parser.add_argument("--model", nargs="+", default=["UniSRec"], help="one or more models (default: UniSRec)")
    parser.add_argument("--dataset", default="ml-100k", help="folder name under dataset/ (default: ml-100k, embedded)")
    parser.add_argument(
        "--train_stage",
        nargs="+",
        help="inductive_ft (text only), transductive_ft (text and IDs), or pretrain on a mixture of domains",
    )
    parser.add_argument("--config", nargs="+", default=[], metavar="FILE", help="property files (YAML)")
    parser.add_argument("--recipe", help="the model as in the paper (default), or ours (props/recipe-ours.yaml)")
    parser.add_argument("--encode", action="store_true", help="make the text features first, if they are missing")
    parser.add_argument("--encoder", help="encoder for --encode: minilm (default), a hub name or a local folder")
    parser.add_argument("--pooling", choices=POOLINGS, help="for --encode (default: what the encoder says, else CLS)")
    parser.add_argument("--seed", type=int, help="random seed (default: 2020)")
    parser.add_argument("--epochs", type=int, help="at most so many epochs; 0 evaluates without training")
    parser.add_argument(
        "--pretrained", metavar="FILE", help="start from a checkpoint of pre-training (ours or the authors')"
    )
    parser.add_argument("--freeze", help="with --pretrained: what stays as it is, encoder (default), adaptor or none")
    parser.add_argument(
        "--resume", action="store_true", help="go on with the run of the same settings that was cut off"
    )
    parser.add_argument(
        "--refit", action="store_true",
        help="afterwards train anew on everything, validation and test included, for as many epochs as were best; for "
        "a model to serve",
    )  # fmt: skip
    parser.add_argument("--help-settings", action="store_true", help="list every setting (of --model) and exit")
    parser.add_argument("--verbose", action="store_true", help="show RecBole's log on the console")
    add_usual(parser)
    return parser


def train_command(arguments: list[str]) -> int:
    """Run ``train``: every model and stage in turn, one table at the end."""
    several = "--leaderboard" in arguments
    parser = leaderboard_parser() if several else train_parser()
    rest, settings = split_settings(arguments, parser)
    options, unknown = parser.parse_known_args(rest)
    if unknown:
        see = "--leaderboard --help" if several else "--help"
        raise UserError(f"unknown option {unknown[0]!r}; settings are written --name=value, see {see}")
    # torch and RecBole only from here on: help and mistakes in the options come without their seconds
    if several:
        from recbole_unisrec import together
        from recbole_unisrec.leaderboard.cli import leaderboard_command

        if together.several():
            raise UserError("the leaderboard starts its own processes (--jobs); start it without torchrun")
        return leaderboard_command(options, rest, settings)
    if options.help_settings:
        from recbole_unisrec import setting_page

        print(setting_page.plain_text(options.model if "--model" in rest else None))
        return 0
    from recbole_unisrec import quick_start, refit, together
    from recbole_unisrec.settings import build_config, known_settings, parse_value

    overrides = {name: parse_value(value) for name, value in settings.items()}
    for name in ("seed", "epochs", "pretrained", "freeze", "recipe"):
        if getattr(options, name) is not None:
            overrides[name] = getattr(options, name)
    if options.refit and (overrides.get("epochs") == 0 or options.train_stage == ["pretrain"]):
        raise UserError(
            "--refit trains again what a run has chosen; it does not go with --epochs 0 or with pre-training"
        )
    overrides.update(together.rank_settings() if options.train_stage != ["pretrain"] else {})
    if options.train_stage == ["pretrain"]:
        return pretrain_command(options, overrides)
    if "pretrain" in (options.train_stage or []):
        raise UserError("--train_stage pretrain stands alone; fine-tune in a second command")
    if options.dataset == "ml-100k":
        data = build_config("UniSRec", options.dataset, [], {k: v for k, v in overrides.items() if k == "data_path"})
        quick_start.prepare(data, None, options.pooling)
    # of several models each takes what it knows; a setting that none knows is an error of them all
    known = {model: known_settings(model, options.dataset) for model in options.model}
    configs = []  # all of them before the first run, which may take hours
    for model in options.model:
        others = set().union(*(known[other] for other in options.model)) - known[model]
        mine = {name: value for name, value in overrides.items() if name not in others}
        for stage in (options.train_stage or [None]) if model == "UniSRec" else [None]:
            chosen = {**mine, "train_stage": stage} if stage else mine
            configs.append(build_config(model, options.dataset, options.config, chosen))
    encoder = options.encoder or ("minilm" if options.encode else None)
    if together.several() and (len(configs) > 1 or encoder or options.refit):
        raise UserError("torchrun trains one model at a time; encode, refit, and train others, in runs of their own")
    results, again = [], []
    for config in configs:
        quick_start.prepare(config, encoder, options.pooling)
        results.append(together.train(config, verbose=options.verbose, resume=options.resume))
        if options.refit:
            again.append(refit.refit(config, results[-1], options.verbose, resume=options.resume))
        print(flush=True)
    if not together.first():
        return 0
    print(quick_start.table(results))
    for result in results:
        print(f"{result.label}: checkpoint {result.checkpoint}, everything about the run in the .json beside it")
    for result in again:
        print(
            f"{result.label}: fitted again on all the data, {result.checkpoint}; `unisrec save` takes it. The figures above "
            "are of the run before, as nothing is left to measure this one by"
        )
    if options.dataset == "ml-100k" and "epochs" not in overrides:
        print(
            "This was the demonstration (props/ml-100k.yaml: 6 epochs at most). A full run: "
            "--epochs 300 --stopping_step=10, the default on every other dataset."
        )
    return 0


def pretrain_command(options: argparse.Namespace, overrides: dict[str, object]) -> int:
    """Run ``train --train_stage pretrain``."""
    from recbole_unisrec import together
    from recbole_unisrec.pretrain import run
    from recbole_unisrec.settings import build_config

    if options.model != ["UniSRec"]:
        raise UserError(f"only UniSRec is pre-trained, not {' '.join(options.model)}")
    if options.encode or options.encoder or options.recipe:
        raise UserError(
            "--encode and --recipe are for fine-tuning; encode each domain with `python -m dataset_tools.features`, and "
            "give settings one by one"
        )
    config = build_config(run.MODEL, options.dataset, options.config, {**overrides, **together.rank_settings()})
    run.pretrain(config, options.resume, options.verbose)
    return 0


def show_help(arguments: list[str]) -> int:
    """Run ``unisrec --help``: the commands."""
    print("usage: unisrec COMMAND ...\n\n" + "\n".join(f"  {name:12} {text}" for name, text in COMMANDS.items()))
    sys.stdout.flush()  # here, where a reader that went away (head) is nothing to be told of
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Entry point of ``unisrec``."""
    arguments = sys.argv[1:] if arguments is None else arguments
    from recbole_unisrec.pretrain.cli import COMMANDS as PRETRAINING
    from recbole_unisrec.serving.cli import COMMANDS as SERVING
    from recbole_unisrec.shop.cli import COMMANDS as SHOP

    others = {**SHOP, **PRETRAINING, **SERVING}
    COMMANDS.update({name: text for name, (_, text) in others.items()})
    commands: dict[str, Callable[[list[str]], int]] = {"train": train_command}
    commands.update({name: command for name, (command, _) in others.items()})
    if not arguments or arguments[0] in ("-h", "--help"):
        return run_cli(show_help, arguments)
    if arguments[0] == "--version":
        print(f"recbole_unisrec {__version__}")
        return 0
    if arguments[0] not in commands:
        print(f"error: unknown command {arguments[0]!r}; choose one of {', '.join(commands)}", file=sys.stderr)
        return 2
    return run_cli(commands[arguments[0]], arguments[1:])
