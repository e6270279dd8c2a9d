"""What the pages take from the code when the site is built: the help text of each command."""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import sys
from typing import Any

HELP = re.compile(r"<!-- help: (.+?) -->")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the help text in the place of ``<!-- help: COMMAND -->``."""
    return HELP.sub(lambda found: f"```text\n{help_of(found[1])}```\n", markdown)


def help_of(command: str) -> str:
    """What ``COMMAND --help`` prints.

    Raises
    ------
    ValueError
        If there is no such command.
    """
    words = command.split()
    printed = io.StringIO()
    arguments, sys.argv = sys.argv, [words[-1], "--help"]
    os.environ["COLUMNS"] = "100"
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            if words[0] == "unisrec":
                from recbole_unisrec.cli import main

                main([*words[1:], "--help"])
            elif words[:2] == ["python", "-m"]:
                runpy.run_module(words[2], run_name="__main__", alter_sys=True)
            else:
                raise ValueError(f"no command: {command}")
    finally:
        sys.argv = arguments
    return printed.getvalue()
