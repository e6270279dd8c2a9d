"""Read files of one JSON object a line, or of one Python dict a line as the Amazon dumps of 2014 have them."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from dataset_tools.common import UserError
from dataset_tools.sources.columns import refuse_missing
from dataset_tools.sources.lines import BadLines, Source, records

MAX_ARRAY = 1 << 30  # bytes of a file that is one JSON array
MAX_LITERAL = 1 << 20  # bytes of a line that is read as a Python literal


def read_json_lines(
    source: Source, fields: Mapping[str, Any], bad: BadLines
) -> Iterator[tuple[Sequence[int], list[Any]]]:
    """Yield (line numbers, objects) of a JSON-lines file in blocks, with only ``fields`` decoded.

    Parameters
    ----------
    source
        The file.
    fields
        Field name to its type; a field of type ``Any`` may be absent (it is None then).
    bad
        Where broken lines go.

    Yields
    ------
    tuple of a sequence of int and a list, equally long
        The objects have an attribute ``_0``, ``_1``, ... per field, in the order of ``fields``.
    """
    definition: list[Any] = []
    rename: dict[str, str] = {}
    for place, (name, kind) in enumerate(fields.items()):
        rename[f"_{place}"] = name
        definition.append((f"_{place}", kind, None) if kind is Any else (f"_{place}", kind))
    record = msgspec.defstruct("Record", definition, rename=rename, kw_only=True, gc=False)
    decoder = msgspec.json.Decoder(record)
    for number, block in json_blocks(source):
        try:
            whole = decoder.decode_lines(block)
            if len(whole) == block.count(b"\n"):  # no blank lines
                yield range(number, number + len(whole)), whole
                continue
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass
        if block.isspace():
            continue
        if number == 1:
            _check_fields(source, block, record)
        lines, good = [], []
        for here, line in records(block, number, quoted=False):
            try:
                found = decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                found = _from_literal(source, line, record) or _repair(line, record)
                if found is None:
                    bad.add(source.path.name, here, str(error), line)
                    continue
            lines.append(here)
            good.append(found)
        yield lines, good


def json_blocks(source: Source) -> Iterator[tuple[int, bytes]]:
    """Blocks of lines; a file that is one JSON array becomes a line an entry.

    Raises
    ------
    UserError
        If an array cannot be read, or is larger than `MAX_ARRAY`, as all of it must be in memory.
    """
    blocks = source.blocks()
    for number, block in blocks:
        if number == 1 and block.lstrip()[:1] == b"[":
            whole = bytearray(block)
            for _, more in blocks:
                whole += more
                if len(whole) > MAX_ARRAY:
                    raise UserError(
                        f"{source.path} is one JSON array of more than {MAX_ARRAY >> 20} MiB; write a line an entry"
                    )
            try:
                entries = msgspec.json.decode(bytes(whole), type=list[msgspec.Raw])
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise UserError(f"{source.path} begins as a JSON array and cannot be read as one: {error}") from error
            source.note("it is one JSON array; lines in messages count its entries")
            # a line end between the names of an entry would end its line here
            yield 1, b"".join(bytes(entry).replace(b"\n", b" ").replace(b"\r", b" ") + b"\n" for entry in entries)
            return
        yield number, block


def fields_of(block: bytes) -> list[str]:
    """Names of the fields that the first hundred objects have."""
    found: dict[str, None] = {}
    for _, line in zip(range(100), (line for _, line in records(block, 1, quoted=False)), strict=False):
        try:
            found.update(dict.fromkeys(msgspec.json.decode(line, type=dict)))
        except (msgspec.DecodeError, UnicodeDecodeError):
            found.update(dict.fromkeys(_literal(line) or {}))
    return list(found)


def _literal(line: bytes) -> dict[str, Any] | None:
    """A dict written by Python; only literals are read, nothing is executed."""
    line = line.strip()
    if not (line.startswith(b"{'") or line.startswith(b'{"')) or len(line) > MAX_LITERAL:
        return None
    try:
        value = ast.literal_eval(line.decode("utf-8", "replace"))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, dict) and all(isinstance(name, str) for name in value) else None


def _from_literal(source: Source, line: bytes, record: type) -> Any:
    value = _literal(line)
    if value is None:
        return None
    try:
        found: Any = msgspec.convert(value, type=record)
    except (ValueError, msgspec.MsgspecError):
        return None
    source.note("its lines are Python dicts, not JSON; they are read as literals, and nothing in them is executed")
    return found


def _check_fields(source: Source, block: bytes, record: type) -> None:
    """Raise `UserError` if a required field is in none of the first objects: another kind of file, not broken lines."""
    found = fields_of(block)
    if found:
        names = [f.encode_name for f in msgspec.structs.fields(record) if f.required]
        refuse_missing(source, [name for name in names if name not in found], found, "field")


def _repair(line: bytes, record: type) -> Any:
    """Read a line the lenient way (bytes that are not UTF-8, lone surrogates, NaN), or return None."""
    try:
        value: Any = msgspec.json.decode(msgspec.json.encode(_clean_json(line)), type=record)
    except (ValueError, msgspec.MsgspecError, RecursionError):
        return None
    # a replaced byte is harmless in a text, but an id with one is another id
    if any(isinstance(v, str) and "\ufffd" in v for v in (getattr(value, name) for name in _required(record))):
        return None
    return value


def _required(record: Any) -> list[str]:
    return [field.name for field in msgspec.structs.fields(record) if field.required]


def _clean_json(line: bytes) -> Any:
    def clean(value: Any) -> Any:
        if isinstance(value, str):
            return value.encode("utf-8", "replace").decode("utf-8")
        if isinstance(value, list):
            return [clean(v) for v in value]
        if isinstance(value, dict):
            return {clean(k): clean(v) for k, v in value.items()}
        return value

    return clean(json.loads(line.decode("utf-8", "replace")))
