"""What a part of the settings is: a frozen dataclass whose fields are the lines of the table, read once from RecBole's config.

A field is declared as ``name: type = setting(kind, about, ...)``. From that one line come its check, its default, the page
of settings, ``--help-settings``, and the typed attribute that the code reads.
"""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass
from typing import Any, ClassVar, Self, dataclass_transform

from recbole_unisrec.errors import UserError
from recbole_unisrec.registry import MODELS
from recbole_unisrec.setting_kinds import Choice, Kind

IN_PROPS = object()  # the default stands in props/ or in RecBole's own property files
EVERYBODY: tuple[str, ...] = ()
RECBOLES = ("RecBole's",)  # stands for every model of RecBole's own


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes
    ----------
    name
        As it is written in a property file.
    kind
        What its value may be.
    about
        What it does, in one line.
    models
        The models of this project that take it; empty is every model, RecBole's too, where the name has this meaning.
    default
        Its value if nobody says anything. The property files in props/ come after it.
    without
        Its value for models that do not take it, and in checkpoints from before there was such a setting.
    optional
        Whether ``~`` (nothing) is a value too.
    hint
        What to do about a wrong value, if the kind does not say it.
    """

    name: str
    kind: Kind
    about: str
    models: tuple[str, ...] = EVERYBODY
    default: Any = IN_PROPS
    without: Any = IN_PROPS
    optional: bool = False
    hint: str = ""

    def fits(self, value: Any) -> bool:
        """Whether the value is of the kind."""
        return self.optional if value is None else self.kind.fits(value)

    def is_of(self, model: str) -> bool:
        """Whether it has this meaning for a model."""
        if self.models == RECBOLES:
            return model not in MODELS
        return not self.models or model in self.models

    def check(self, value: Any, where: str = "") -> None:
        """Raise `UserError` if the value is not of the kind; `where` is the file that says it."""
        if self.fits(value):
            return
        nothing = ", or ~ for nothing" if self.optional else ""
        hint = f"; {self.hint}" if self.hint else ""
        if isinstance(self.kind, Choice) and isinstance(value, str):
            close = difflib.get_close_matches(value, self.kind.names, n=1)
            hint = f"; did you mean {close[0]}?" if close else hint
        raise UserError(f"{self.name} must be {self.kind.words}{nothing}, not {shown(value)}{in_file(where)}{hint}")

    def read(self, value: Any) -> Any:
        """The value in the type of its field; where there is none, that of `without` or the default.

        Raises
        ------
        UserError
            If it is not of the kind.
        """
        if self.optional and value in (None, ""):
            return None
        usual = self.default if self.without is IN_PROPS else self.without
        if value is None and usual is not IN_PROPS:
            return usual
        self.check(value)
        return self.kind.read(value)


def setting(
    kind: Kind,
    about: str,
    models: tuple[str, ...] = EVERYBODY,
    *,
    name: str = "",
    default: Any = IN_PROPS,
    without: Any = IN_PROPS,
    optional: bool = False,
    hint: str = "",
) -> Any:
    """A field of a `Part` that is a line of the table (see `Setting`); `name` where it is not that of the field."""
    line = Setting(name, kind, about, models, default, without, optional, hint)
    usual = default if without is IN_PROPS else without
    given = dataclasses.MISSING if usual is IN_PROPS else usual
    return dataclasses.field(default=given, metadata={"line": line})


def computed(*, name: str) -> Any:
    """A field of a `Part` that nobody sets in a file: RecBole computes it, or it is an argument of the command."""
    return dataclasses.field(metadata={"computed": name})


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(setting, computed))
class Part:
    """Settings that belong together; a subclass is a frozen dataclass, its `title` the heading in the docs.

    Attributes
    ----------
    lines
        The `Setting` of each field that is one.
    """

    title: ClassVar[str]
    lines: ClassVar[dict[str, Setting]]
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    def __init_subclass__(cls, title: str = "") -> None:
        super().__init_subclass__()
        dataclass(frozen=True, kw_only=True)(cls)
        cls.title = title
        named = {field.name: field.metadata["line"] for field in dataclasses.fields(cls) if "line" in field.metadata}
        cls.lines = {field: dataclasses.replace(line, name=line.name or field) for field, line in named.items()}

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """Read all fields.

        Parameters
        ----------
        config
            RecBole's ``Config``, or a mapping of settings.

        Raises
        ------
        UserError
            If a value is missing, or not of its kind.
        """
        found = {field: line.read(value_of(config, line.name)) for field, line in cls.lines.items()}
        for field in dataclasses.fields(cls):
            if "computed" in field.metadata:
                found[field.name] = value_of(config, field.metadata["computed"])
        return cls(**found)


def value_of(config: Any, name: str) -> Any:
    """A value of a configuration; None where it has none, as RecBole's answers."""
    try:
        return config[name]
    except KeyError:
        return None


def shown(value: Any) -> str:
    """A value as it is written in a property file."""
    return "~" if value is None else repr(value)


def in_file(where: str) -> str:
    """`` (in FILE)``."""
    return f" (in {where})" if where else ""
