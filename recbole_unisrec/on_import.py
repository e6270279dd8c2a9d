"""Waits until RecBole is imported, and then closes its gaps and registers the project's models.

So ``import recbole_unisrec`` costs nothing by itself, and help and mistakes in the options come without torch and RecBole,
whose import takes seconds.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

RECBOLE = "recbole"


def register() -> None:
    """Close the gaps of RecBole and register the project's models; idempotent."""
    from recbole_unisrec import compat

    compat.apply()
    from recbole_unisrec import plugin  # it imports RecBole, whose gaps are closed by now

    plugin.register()


class _Finder(MetaPathFinder):
    """Finds RecBole as the other finders do; what it finds calls `register` at the end of its import."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != RECBOLE:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                break
        else:
            return None
        if spec.loader is None:
            return spec
        loader = spec.loader
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            loader.exec_module = execute  # type: ignore[method-assign]
            register()

        loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def arrange() -> None:
    """Register now if RecBole is there already, else when it is imported.

    Raises
    ------
    UserError
        If RecBole is not installed.
    """
    if RECBOLE in sys.modules:
        register()
        return
    if importlib.util.find_spec(RECBOLE) is None:
        from recbole_unisrec.errors import UserError

        raise UserError(
            "RecBole is not installed; run `pip install --no-deps recbole==1.2.1` (see the README on Python 3.12)"
        )
    sys.meta_path.insert(0, _Finder())
