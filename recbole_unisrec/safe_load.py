"""Checkpoints without code: only tensors, plain values and RecBole's configuration come out of a file.

A pickle is a program: it names things, calls them, and sets attributes. Here each of these steps is allowed for a short
list of cases, and the first other one is an error with the name that the file asked for.
"""

from __future__ import annotations

import collections
import importlib
import os
import pickle
import tarfile
import types
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

import numpy as np
import torch

from recbole_unisrec.errors import UserError

_torch_load = torch.load

Key = tuple[str, str]
# modules of the authors' repository, and of older versions of Python and numpy: (module, name) to look up instead
RENAMED: dict[Key, Key] = {
    ("config", "Config"): ("recbole.config.configurator", "Config"),
    ("unisrec", "UniSRec"): ("recbole_unisrec.model.unisrec", "UniSRec"),
}
CONFIG: Key = ("recbole.config.configurator", "Config")
ENUMS = "recbole.utils.enum_type"
MODELS = ("recbole.model.", "recbole_unisrec.model.")
LOADER: Key = ("yaml.loader", "FullLoader")
MAPPINGS = (dict, collections.OrderedDict, collections.defaultdict)
FACTORIES: dict[str, type] = {"int": int, "float": float, "str": str, "list": list, "dict": dict, "set": set}


class Refused(pickle.UnpicklingError):
    """The file asks for something that no checkpoint needs."""


@dataclass(frozen=True)
class Name:
    """A name that a file may use: to call it with `make`, or as a value in a configuration (`make` is None)."""

    module: str
    name: str
    make: Callable[..., Any] | None = None

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


def _array(kind: Any, shape: Any, code: Any) -> np.ndarray:
    if kind != Name("numpy", "ndarray"):
        raise Refused(f"the file builds an array of the kind {kind}, which no checkpoint needs")
    return np.ndarray((0,), np.int8)  # `BUILD` gives it shape and content


def _dtype(code: Any, *flags: bool) -> np.dtype[Any]:
    found = np.dtype(code) if isinstance(code, str) else None
    if found is None or found.hasobject or found.fields is not None:
        raise Refused(f"the file holds numpy values of the type {code!r}, which no checkpoint needs")
    return np.dtype(code, copy=True)


def _scalar(dtype: np.dtype[Any], data: bytes) -> Any:
    if not isinstance(dtype, np.dtype) or not isinstance(data, bytes):
        raise Refused("the file holds a numpy number that is none")
    return np.frombuffer(data, dtype=dtype)[0]


def _encode(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise Refused(f"the file holds bytes in the encoding {encoding!r}, which no checkpoint needs")
    return text.encode("latin1")


def _default(factory: Any = None) -> collections.defaultdict[Any, Any]:
    if factory is not None and not (isinstance(factory, Name) and factory.module == "builtins"):
        raise Refused(f"the file holds a dictionary that calls {factory}, which no checkpoint needs")
    return collections.defaultdict(None if factory is None else FACTORIES[factory.name])


def _tensor(
    storage: Any, offset: int, size: Any, stride: Any, requires_grad: bool, hooks: Any, metadata: Any = None
) -> Any:
    if hooks or metadata:
        raise Refused("the file holds a tensor with hooks, which no checkpoint needs")
    return torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, collections.OrderedDict())


def _parameter(data: Any, requires_grad: bool, hooks: Any) -> Any:
    if hooks:
        raise Refused("the file holds a parameter with hooks, which no checkpoint needs")
    return torch.nn.Parameter(data, requires_grad)


CALLS: dict[Key, Callable[..., Any]] = {
    ("builtins", "bytes"): lambda: b"",  # how protocol 2 writes none
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "complex"): complex,
    ("builtins", "slice"): slice,
    ("builtins", "bytearray"): lambda data=b"", encoding="latin1": bytearray(
        data if isinstance(data, bytes) else _encode(data, encoding)
    ),
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): _default,
    ("torch", "device"): torch.device,
    ("torch", "Size"): torch.Size,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("_codecs", "encode"): _encode,
    ("numpy", "dtype"): _dtype,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.multiarray", "_reconstruct"): _array,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "_reconstruct"): _array,
}


def _value_of(name: Any) -> Any:
    """The class that a configuration names: a model, or the reader of property files."""
    if not isinstance(name, Name):
        return name
    if (name.module, name.name) != LOADER and not name.module.startswith(MODELS):
        raise Refused(f"the file asks for {name}, which no checkpoint needs")
    try:
        found = getattr(importlib.import_module(name.module), name.name)
    except (ImportError, AttributeError) as error:
        raise Refused(f"the file is of the model {name}, which is not installed") from error
    if not isinstance(found, type) or found.__module__ != name.module:
        raise Refused(f"the file asks for {name}, which is no model")
    return found


_Python: Any = pickle._Unpickler  # the one in Python, whose steps can be replaced, unlike those of the one in C


class Unpickler(_Python):
    """Python's own unpickler, whose every step that could do something is written anew."""

    sizes: dict[str, int] | None = None  # bytes of each storage in a zip file
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(_Python.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name; nothing is imported."""
        module, name = RENAMED.get((module, name), (module, name))
        module = "builtins" if module == "__builtin__" else module
        key = module, name
        if key in CALLS:
            return Name(module, name, CALLS[key])
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if module == ENUMS:
            kind = getattr(importlib.import_module(module), name, None)
            if isinstance(kind, type) and issubclass(kind, Enum) and kind is not Enum:
                return Name(module, name, lambda value: kind(value))
        model = module.startswith(MODELS) and name.isidentifier()
        if model or key in (CONFIG, LOADER, ("numpy", "ndarray")) or (module == "builtins" and name in FACTORIES):
            return Name(module, name)
        raise Refused(f"the file asks for {module}.{name}, which no checkpoint needs")

    def load(self) -> Any:
        """Read the file."""
        found = super().load()
        _check_plain(found)
        return found

    def _reduce(self) -> None:
        arguments = self.stack.pop()
        called = self.stack[-1]
        if not isinstance(called, Name) or called.make is None or not isinstance(arguments, tuple):
            raise Refused(f"the file calls {_shown(called)}, which no checkpoint needs")
        try:
            self.stack[-1] = called.make(*arguments)
        except (TypeError, ValueError, IndexError, OverflowError, MemoryError) as error:
            raise Refused(f"the file calls {called} with values that it does not take ({error})") from error

    def _newobj(self) -> None:
        arguments = self.stack.pop()
        kind = self.stack[-1]
        if not isinstance(kind, Name) or (kind.module, kind.name) != CONFIG or arguments != ():
            raise Refused(f"the file makes a {_shown(kind)}, which no checkpoint needs")
        config = importlib.import_module(kind.module).Config
        self.stack[-1] = object.__new__(config)  # without its constructor, which reads files

    def _build(self) -> None:
        state = self.stack.pop()
        built = self.stack[-1]
        kind = type(built)
        if kind is collections.OrderedDict and isinstance(state, dict) and set(state) <= {"_metadata"}:
            vars(built).update(state)
        elif (kind.__module__, kind.__qualname__) == CONFIG and isinstance(state, dict):
            for name in state:
                if not isinstance(name, str) or hasattr(kind, name):  # a method of the class
                    raise Refused(f"the file sets {name!r} of RecBole's configuration, which no checkpoint needs")
            vars(built).update({name: _value_of(value) for name, value in state.items()})
        elif isinstance(built, np.dtype) and isinstance(state, tuple) and state[2:5] == (None, None, None):
            built.__setstate__(state)  # type: ignore[attr-defined]
        elif kind is np.ndarray and isinstance(state, tuple) and len(state) == 5:
            if not isinstance(state[2], np.dtype) or state[2].hasobject or not isinstance(state[4], bytes):
                raise Refused("the file holds an array of objects, which no checkpoint needs")
            built.__setstate__(state)
        else:
            raise Refused(f"the file sets the inside of {_shown(built)}, which no checkpoint needs")

    def _only(self, kinds: tuple[type, ...], step: Callable[[Any], None], marked: bool) -> None:
        target = self.metastack[-1][-1] if marked else self.stack[-3 if dict in kinds else -2]
        if type(target) not in kinds:
            raise Refused(f"the file puts something into {_shown(target)}, which no checkpoint needs")
        step(self)

    def _persistent(self) -> None:
        found = self.stack[-1]
        if not isinstance(found, tuple) or len(found) < 5 or found[0] != "storage":
            raise Refused("the file holds something beside tensors, which no checkpoint needs")
        _, kind, key, _, count = found[:5]
        if self.sizes is not None:
            width = getattr(kind, "dtype", torch.uint8).itemsize
            if not isinstance(count, int) or not 0 <= count * width <= self.sizes.get(str(key), -1):
                raise Refused(f"the file has less than the {count} numbers of tensor {str(key)[:40]!r}")
        _Python.dispatch[pickle.BINPERSID[0]](self)

    def _other(self) -> None:
        raise Refused("the file makes objects in an old way, which no checkpoint needs")

    dispatch[pickle.REDUCE[0]] = _reduce
    dispatch[pickle.NEWOBJ[0]] = _newobj
    dispatch[pickle.BUILD[0]] = _build
    dispatch[pickle.BINPERSID[0]] = _persistent
    for _code in (pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.PERSID):
        dispatch[_code[0]] = _other


def _guard(code: bytes, kinds: tuple[type, ...], marked: bool) -> None:
    step = _Python.dispatch[code[0]]
    Unpickler.dispatch[code[0]] = lambda self: self._only(kinds, step, marked)


_guard(pickle.SETITEM, MAPPINGS, False)
_guard(pickle.SETITEMS, MAPPINGS, True)
_guard(pickle.APPEND, (list,), False)
_guard(pickle.APPENDS, (list,), True)
_guard(pickle.ADDITEMS, (set,), True)


def _shown(thing: Any) -> str:
    return str(thing) if isinstance(thing, Name) else f"a {type(thing).__name__}"


def _check_plain(found: Any) -> None:
    """Refuse names that are left over as values."""
    waiting, seen = [found], set()
    while waiting:
        thing = waiting.pop()
        if isinstance(thing, Name):
            raise Refused(f"the file holds {thing}, which no checkpoint needs")
        if id(thing) in seen or not isinstance(thing, dict | list | tuple | set | frozenset):
            if (type(thing).__module__, type(thing).__qualname__) == CONFIG and id(thing) not in seen:
                seen.add(id(thing))
                waiting += vars(thing).values()
            continue
        seen.add(id(thing))
        waiting += [*thing, *thing.values()] if isinstance(thing, dict) else thing
        waiting += vars(thing).values() if isinstance(thing, collections.OrderedDict) else ()


def _module(sizes: dict[str, int] | None) -> types.ModuleType:
    """What torch takes for the module ``pickle``."""
    kind = type("Unpickler", (Unpickler,), {"sizes": sizes})
    module = types.ModuleType("recbole_unisrec_safe_pickle")
    module.__dict__.update(pickle.__dict__)
    module.Unpickler = kind  # type: ignore[attr-defined]
    module.load = lambda file, **options: kind(file, **options).load()  # type: ignore[attr-defined]
    return module


def _check_zip(file: Any) -> dict[str, int] | None:
    """Sizes of the storages of a checkpoint, whose checksums are compared with its content; None for an old one."""
    if not zipfile.is_zipfile(file):
        if tarfile.is_tarfile(file):
            raise Refused("the file is of a version of torch before 0.4")
        return None
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        if any(name.endswith("/constants.pkl") for name in names):
            raise Refused("the file is a TorchScript program, which no checkpoint is")
        damaged = archive.testzip()
        if damaged is not None:
            raise Refused(f"its part {damaged} was changed since it was saved (its checksum is another)")
        return {i.filename.partition("/data/")[2]: i.file_size for i in archive.infolist() if "/data/" in i.filename}


def safe_torch_load(file: Any, map_location: Any = None, **_: Any) -> Any:
    """`torch.load` for RecBole's checkpoints.

    They hold RecBole's ``Config`` and are pickled with protocol 4; torch >= 2.6 loads with ``weights_only=True``, which
    reads neither. This reads both, and nothing that could run code. The checksum that torch writes beside each tensor
    is checked, which torch itself does not do.

    Raises
    ------
    UserError
        If the file is torn or changed, or asks for more than weights and configuration.
    """
    try:
        sizes = _check_zip(file)
        if hasattr(file, "seek"):
            file.seek(0)
        return _torch_load(file, map_location=map_location, pickle_module=_module(sizes), weights_only=False)
    except FileNotFoundError:
        raise
    except (
        pickle.UnpicklingError, zipfile.BadZipFile, EOFError, RuntimeError, LookupError, AttributeError, TypeError,
        ValueError, AssertionError, OverflowError, MemoryError, OSError,
    ) as error:  # fmt: skip
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        shown = os.fspath(file) if isinstance(file, str | os.PathLike) else "the checkpoint"
        raise UserError(f"cannot load {shown}: {reason}; use another checkpoint") from error
