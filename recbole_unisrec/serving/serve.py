"""The command ``unisrec serve``: its options, the token, and which addresses need one."""

from __future__ import annotations

import argparse
import importlib.util
import ipaddress
import os
import sys
from pathlib import Path

from dataset_tools.common import UserError
from recbole_unisrec.serving.arguments import load_model, natural, parser_of, seconds
from recbole_unisrec.serving.process import set_threads

TOKEN = "UNISREC_TOKEN"  # environment variable


def serve_command(arguments: list[str]) -> int:
    """The HTTP service and its page."""
    parser = parser_of(
        "serve",
        "Start an HTTP service with a page to try the model: POST /recommend, POST /items, GET /items?q=..., ...\n"
        "Beyond loopback a token is required, from the environment variable UNISREC_TOKEN or --token_file.",
        "examples:\n"
        "  unisrec serve --model models/myshop\n"
        "  UNISREC_TOKEN=$(cat token) unisrec serve --model models/myshop --host 0.0.0.0",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="default: %(default)s; 0 takes a free one")
    parser.add_argument("--token_file", type=Path, metavar="FILE", help="file whose first line is the bearer token")
    parser.add_argument("--max_body", type=natural, default=1 << 20, help="bytes of a request (default: %(default)s)")
    parser.add_argument("--threads", type=natural, default=1, help="of an answer (default: 1; one more does the HTTP)")
    parser.add_argument("--save_changes", action="store_true", help="save added and removed items when it stops")
    parser.add_argument("--drain", type=natural, default=30, help="seconds for open requests at the end (default: 30)")
    parser.add_argument(
        "--workers", type=natural, default=1,
        help="processes that share the model; changes are then saved in its folder at once (default: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--reload", type=seconds, default=2.0, metavar="SECONDS",
        help="between two looks whether the folder was replaced; 0 for none (default: 2)",
    )  # fmt: skip
    parser.add_argument("--max_items", type=natural, default=1_000_000, help="of the catalogue (default: a million)")
    parser.add_argument(
        "--origin", nargs="+", default=[], metavar="URL",
        help="pages of other sites that may send requests, such as https://shop.example",
    )  # fmt: skip
    parser.add_argument(
        "--access_log", default="-", metavar="FILE", help="a line of JSON for each request: - is stderr, none is no log"
    )
    args = parser.parse_args(arguments)
    token = _token(args)
    if token is None and not is_loopback(args.host):
        raise UserError(f"{args.host} is not loopback, so a token is needed; set {TOKEN} or give --token_file FILE")
    if args.save_changes and not args.model.is_dir():
        raise UserError("--save_changes needs a saved model's folder; make one with `unisrec save`")
    if args.workers > 1 and not args.model.is_dir():
        raise UserError("--workers needs a saved model's folder, which they share; make one with `unisrec save`")
    for name in ("fastapi", "uvicorn", "prometheus_client"):
        if importlib.util.find_spec(name) is None:
            raise UserError(f'the service needs {name}; run pip install "recbole_unisrec[serve]"')
    from recbole_unisrec.serving.served import Following
    from recbole_unisrec.serving.server import Options, run

    rec = load_model(args)
    if args.workers > 1 and rec.origin is None:
        raise UserError("--workers needs a saved model's folder, which they share; make one with `unisrec save`")
    if args.max_items < len(rec):
        raise UserError(f"the model has {len(rec):,} items already; give a larger --max_items")
    set_threads(args.threads)
    following = None
    if rec.origin is not None:
        following = Following(rec.origin.path, args.index, shared=args.workers > 1, seconds=args.reload)
    options = Options(
        args.host, args.port, token, args.max_body, tuple(args.origin), args.drain, args.workers, args.max_items,
        args.access_log, args.threads,
    )  # fmt: skip
    last = run(rec, options, following)
    if args.save_changes and last.changed:
        last.save(args.model)
        print(f"{args.model}: saved, {len(last):,} items", file=sys.stderr)
    return 0


def _token(args: argparse.Namespace) -> str | None:
    token: str | None = os.environ.get(TOKEN)
    if args.token_file:
        try:
            token = (args.token_file.read_text(encoding="utf-8").splitlines() or [""])[0].strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read the token in {args.token_file}: {error}") from error
    if token is not None and (len(token) < 8 or not token.isascii() or not token.isprintable() or " " in token):
        raise UserError("the token must be at least 8 printable ASCII characters without blanks")
    return token


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
