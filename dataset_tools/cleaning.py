"""Fields of an item as one line of text, cleaned as in the paper."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator
from typing import Any

MAX_FIELD = 2000  # characters; longer fields of the metadata are scraped pages, the paper drops them
_QUOTES_AND_LINE_ENDS = str.maketrans("", "", '"\n\r')
# what would break a line-oriented, tab-separated file, or a reader that splits at every Unicode line end
_BREAKS = re.compile("[\t\x00\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")


def clean_text(value: Any) -> str:
    """One field of an item, cleaned as in the paper.

    HTML entities unescaped; quotes and line ends removed; trailing dots to exactly one; a field of 2,000 characters or
    more dropped. Tabs and other characters that end a line somewhere become blanks. A list (of lists)
    is joined with blanks.

    >>> clean_text(["Arts &amp; Crafts", "3\\" Paper..."])
    'Arts & Crafts 3 Paper.'
    """
    if isinstance(value, list | tuple):
        value = " ".join(_flat(value))
    elif not isinstance(value, str):
        value = str(value)
    if "&" in value:
        value = html.unescape(value)
    value = value.translate(_QUOTES_AND_LINE_ENDS)
    value = _BREAKS.sub(" ", value).rstrip(".") + "."
    return value if len(value) < MAX_FIELD else ""


def _flat(values: Iterable[Any]) -> Iterator[str]:
    """The texts of a list, and of lists in it."""
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        else:
            yield str(value)


def join_fields(values: Iterable[Any]) -> str:
    """Text of an item: each field that is there, cleaned, with a blank behind it, as the published sets have it."""
    return "".join(clean_text(value) + " " for value in values if value is not None)


def is_empty_text(text: str) -> bool:
    """Whether a text says nothing: no letter or digit in it."""
    return not any(character.isalnum() for character in text)
