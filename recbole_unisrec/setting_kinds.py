"""What the value of a setting may be: each kind knows its words, and which values are of it."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

INTERVAL = re.compile(r"[\[(]\s*-?(\d+\.?\d*|\.\d+|inf)\s*,\s*-?(\d+\.?\d*|\.\d+|inf)\s*[\])]")


class Kind:
    """One kind of value.

    Attributes
    ----------
    type
        For a table: ``int``, ``text``, ...
    """

    type = ""

    def fits(self, value: Any) -> bool:
        """Whether a value is of this kind."""
        raise NotImplementedError

    def read(self, value: Any) -> Any:
        """A value of this kind in the type that the code takes (`python`)."""
        return value

    @property
    def python(self) -> str:
        """Its type as it is annotated."""
        return {"text": "str", "mapping": "dict[str, Any]"}.get(self.type, self.type)

    @property
    def words(self) -> str:
        """What a value must be, to end the sentence "it must be ..."."""
        raise NotImplementedError

    @property
    def range(self) -> str:
        """Bounds or choices in a few words, for a table; empty where there are none."""
        return ""


@dataclass(frozen=True)
class Number(Kind):
    """A number within bounds.

    Attributes
    ----------
    low, high
        Bounds; None is none.
    whole
        Whether it must be a whole number.
    above, below
        Whether the bound itself is out.
    """

    low: float | None = None
    high: float | None = None
    whole: bool = False
    above: bool = False
    below: bool = False

    @property
    def type(self) -> str:  # type: ignore[override]
        """``int`` or ``float``."""
        return "int" if self.whole else "float"

    def fits(self, value: Any) -> bool:
        """Whether it is a finite number within the bounds; True and False are none."""
        if isinstance(value, bool) or not isinstance(value, numbers.Integral if self.whole else numbers.Real):
            return False
        value = float(value)
        if not math.isfinite(value):
            return False
        if self.low is not None and (value < self.low or (self.above and value == self.low)):
            return False
        return self.high is None or not (value > self.high or (self.below and value == self.high))

    def read(self, value: Any) -> int | float:
        """As an int, or a float."""
        return int(value) if self.whole else float(value)

    @property
    def words(self) -> str:
        """``a whole number of 1 or more``."""
        return ("a whole number " if self.whole else "a number ") + self._bounds("of ")

    @property
    def range(self) -> str:
        """``1 or more``."""
        return self._bounds("")

    def _bounds(self, of: str) -> str:
        low = None if self.low is None else f"{self.low:.15g}"
        high = None if self.high is None else f"{self.high:.15g}"
        if low is None or high is None:
            return f"above {low}" if self.above else f"{of}{low} or more"
        start = f"above {low}" if self.above else f"from {low}"
        if self.below:
            return f"{start} and below {high}" if self.above else f"{start} to below {high}"
        return f"{start} and at most {high}" if self.above else f"{start} to {high}"


@dataclass(frozen=True)
class Choice(Kind):
    """One of some names; `any_case` takes them in capitals too."""

    names: tuple[str, ...]
    any_case: bool = False
    type = "text"

    def fits(self, value: Any) -> bool:
        """Whether it is one of the names."""
        if not isinstance(value, str):
            return False
        return value in self.names or (self.any_case and value.lower() in [name.lower() for name in self.names])

    @property
    def words(self) -> str:
        """``one of a, b``."""
        return f"one of {', '.join(self.names)}" if len(self.names) > 1 else self.names[0]

    @property
    def range(self) -> str:
        """The names."""
        return ", ".join(self.names)


@dataclass(frozen=True)
class Flag(Kind):
    """True or False."""

    type = "bool"

    def fits(self, value: Any) -> bool:
        """Whether it is a bool."""
        return isinstance(value, bool)

    @property
    def words(self) -> str:
        """``True or False``."""
        return "True or False"


@dataclass(frozen=True)
class Text(Kind):
    """Any text, perhaps of one form.

    Attributes
    ----------
    pattern
        Regular expression of the whole text; empty: anything goes, numbers too.
    form
        What it must look like, in words.
    """

    pattern: str = ""
    form: str = "a text"
    type = "text"

    def fits(self, value: Any) -> bool:
        """Whether it is a text of the form."""
        if not self.pattern:  # --gpu_id=0 and --dataset=2014 are numbers to YAML
            return isinstance(value, str | int | float) and not isinstance(value, bool)
        return isinstance(value, str) and re.fullmatch(self.pattern, value) is not None

    def read(self, value: Any) -> str:
        """As a text, numbers too."""
        return str(value)

    @property
    def words(self) -> str:
        """The form."""
        return self.form

    @property
    def range(self) -> str:
        """The form, where there is one."""
        return self.form if self.pattern else ""


@dataclass(frozen=True)
class Several(Kind):
    """A list of values of one kind.

    Attributes
    ----------
    of
        The kind of each.
    example
        How it is written.
    single
        Whether one value may stand for a list of it.
    least
        Fewest values.
    """

    of: Kind
    example: str
    single: bool = False
    least: int = 1

    @property
    def type(self) -> str:  # type: ignore[override]
        """``list of int``."""
        return f"list of {self.of.type}"

    def fits(self, value: Any) -> bool:
        """Whether it is such a list."""
        if self.single and not isinstance(value, list | tuple):
            return self.of.fits(value)
        if not isinstance(value, list | tuple) or len(value) < self.least:
            return False
        return all(self.of.fits(one) for one in value)

    def read(self, value: Any) -> tuple[Any, ...]:
        """As a tuple, one value too."""
        return tuple(self.of.read(one) for one in (value if isinstance(value, list | tuple) else [value]))

    @property
    def python(self) -> str:
        """``tuple[int, ...]``."""
        return f"tuple[{self.of.python}, ...]"

    @property
    def words(self) -> str:
        """``a list like [10, 50]``, with what each must be."""
        each = f", each {self.of.words}" if self.of.range else ""
        return f"a list like {self.example}{each}"

    @property
    def range(self) -> str:
        """Of each value."""
        return f"each {self.of.range}" if self.of.range else ""


@dataclass(frozen=True)
class Interval(Kind):
    """Intervals of numbers like ``[5,inf)``, with semicolons between; `tokens` takes a list of names too."""

    tokens: bool = False
    type = "text"

    @property
    def python(self) -> str:
        """Any: RecBole reads it in its own way."""
        return "Any"

    def fits(self, value: Any) -> bool:
        """Whether it is one; RecBole reads ``"[3,20]"`` as a list of two numbers."""
        if isinstance(value, str):
            return all(INTERVAL.fullmatch(part.strip()) for part in value.split(";"))
        if not isinstance(value, list | tuple):
            return False
        if len(value) == 2 and all(Number().fits(bound) for bound in value):
            return True
        return self.tokens and all(isinstance(name, str | int) for name in value)

    @property
    def words(self) -> str:
        """``an interval like ...``."""
        return 'an interval like "[5,inf)"' + (" or a list of names" if self.tokens else "")

    @property
    def range(self) -> str:
        """An example."""
        return 'like "[5,inf)"'


@dataclass(frozen=True)
class Mapped(Kind):
    """A mapping; of the values under the names in `keys` (all, if it is None) each is of the kind `of`."""

    example: str
    of: Kind | None = None
    keys: tuple[str, ...] | None = None
    type = "mapping"

    def fits(self, value: Any) -> bool:
        """Whether it is a mapping of these names."""
        if not isinstance(value, Mapping) or (self.keys is not None and not set(value) <= set(self.keys)):
            return False
        return self.of is None or all(self.of.fits(one) for one in value.values())

    @property
    def words(self) -> str:
        """``a mapping like {...}``."""
        return f"a mapping like {self.example}"

    @property
    def range(self) -> str:
        """An example."""
        return f"like {self.example}"


@dataclass(frozen=True)
class OneOf(Kind):
    """A value of one of several kinds."""

    kinds: tuple[Kind, ...]

    @property
    def type(self) -> str:  # type: ignore[override]
        """The types."""
        return " or ".join(kind.type for kind in self.kinds)

    @property
    def python(self) -> str:
        """Any: RecBole reads it in its own way."""
        return "Any"

    def fits(self, value: Any) -> bool:
        """Whether one kind fits."""
        return any(kind.fits(value) for kind in self.kinds)

    @property
    def words(self) -> str:
        """The words of each."""
        return " or ".join(kind.words for kind in self.kinds)

    @property
    def range(self) -> str:
        """The ranges."""
        return "; ".join(kind.range for kind in self.kinds if kind.range)


def whole(low: int, high: int | None = None) -> Number:
    """A whole number from `low` to `high`."""
    return Number(low, high, whole=True)


POSITIVE = Number(0, above=True)
SHARE = Number(0, 1)
DROPOUT = Number(0, 1, below=True)
NAME = Text()
FLAG = Flag()
