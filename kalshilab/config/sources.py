"""Sources of settings: the declaration of a field, the layers of variables, and the origin of each value.

`kalshilab.config.settings` declares the fields; this module reads them.  The origin of a value is one short text:
"default", "argument", "environment variable RLM_CONTRACTS", or ".env, line 3 (RLM_CONTRACTS)".
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import Field, dataclass, field
from pathlib import Path
from typing import Any, Final

from kalshilab.config.readers import SettingReader
from kalshilab.config.retired import RETIRED, refuse_retired
from kalshilab.errors import ConfigError

__all__ = [
    "ARGUMENT",
    "DEFAULT",
    "ORIGINS_VARIABLE",
    "Layer",
    "masked",
    "passed_origins",
    "reject_useless",
    "resolve",
    "setting",
    "strength",
    "unknown_setting",
    "variables_of",
]

DEFAULT: Final = "default"
ARGUMENT: Final = "argument"
ORIGINS_VARIABLE: Final = "KALSHILAB_ORIGINS"
"""The variable with which a process passes on the origins of the settings that it gives to another as variables."""

_OWN_PREFIXES: Final = (
    "KALSHILAB_", "KALSHI_API", "KALSHI_WS", "KALSHI_PRIVATE", "RLM_", "RL_M", "RL_O", "LIFECYCLE_", "MIN_TRADER", "V3_",
    "API_DISCOVERY", "DISCOVERY_CLOSE", "WHALE_", "YES8090_",
)  # fmt: skip
_OLD_PREFIXES: Final = ("RLM_", "RL_M", "RL_O", "LIFECYCLE_", "V3_", "WHALE_", "YES8090_")
_PROCESS_NAMES: Final = {"KALSHILAB_HOME", "KALSHILAB_RUN", ORIGINS_VARIABLE}


def setting(
    default: object,
    reader: SettingReader,
    *older: str | tuple[str, SettingReader],
    was: str = "",
    doc: str,
) -> Any:
    """Declare a field of `Settings`: the one place that states its default, reader, variables and documentation.

    Args:
        default: its value where it is not set.
        reader: converts and checks what is given.
        older: older variable names, with a reader where their unit differs.
        was: the field's old name, which still works and warns.
        doc: one line of documentation, without the allowed values.
    """
    return field(default=default, metadata={"reader": reader, "older": older, "was": was, "doc": doc})


@dataclass(frozen=True, slots=True)
class Layer:
    """One source of variables; `lines` only for a file: the line of each variable."""

    values: Mapping[str, str]
    source: str
    lines: Mapping[str, int] | None = None

    def place(self, variable: str) -> str:
        """Return the place of a variable, for an error that names the variable itself."""
        return self.source if self.lines is None else f"{self.source}, line {self.lines[variable]}"

    def origin(self, variable: str) -> str:
        """Return the origin of a value that this variable gives."""
        if self.lines is None:
            return f"{self.source} variable {variable}"
        return f"{self.place(variable)} ({variable})"


def variables_of(f: Field[Any]) -> list[tuple[str, SettingReader]]:
    """Return the variables that set a field, newest name first, each with its reader."""
    reader: SettingReader = f.metadata["reader"]
    own = [f.name, f.metadata["was"]] if f.metadata["was"] else [f.name]
    pairs = [(f"KALSHILAB_{name.upper()}", reader) for name in own]
    pairs += [(o, reader) if isinstance(o, str) else o for o in f.metadata["older"]]
    return pairs


def resolve(f: Field[Any], given: Mapping[str, object], layers: Sequence[Layer]) -> tuple[object, str]:
    """Return the value of a field and its origin.

    Args:
        f: the field.
        given: the keywords.
        layers: the sources of variables, strongest first.

    Raises:
        ConfigError: the value is not allowed.
    """
    if f.name in given:
        return _read(f, f.metadata["reader"], f.name, given[f.name], "keyword"), ARGUMENT
    for layer in layers:
        for variable, reader in variables_of(f):
            if variable in layer.values:
                value = _read(f, reader, variable, layer.values[variable], layer.place(variable))
                return value, layer.origin(variable)
    return f.default, DEFAULT


def _read(f: Field[Any], reader: SettingReader, name: str, value: object, source: str) -> object:
    try:
        return reader.convert(value)
    except (TypeError, ValueError):
        shown = "***" if f.name in {"private_key", "key_id"} else value
        raise ConfigError(name, shown, reader.allowed, source) from None


def strength(origin: str) -> int:
    """Return the rank of an origin: 0 is the weakest.

    >>> strength(DEFAULT), strength(".env, line 3 (RLM_CONTRACTS)"), strength("environment variable X"), strength(ARGUMENT)
    (0, 1, 2, 3)
    """
    if origin in (DEFAULT, ARGUMENT):
        return 0 if origin == DEFAULT else 3
    return 2 if origin.startswith("environment ") else 1


def passed_origins(layers: Sequence[Layer]) -> dict[str, str]:
    """Return the origins that another process has passed on with its settings, by field.

    Raises:
        ConfigError: they cannot be read.
    """
    for layer in layers:
        text = layer.values.get(ORIGINS_VARIABLE)
        if text is not None:
            try:
                return {str(name): str(origin) for name, origin in json.loads(text).items()}
            except (ValueError, AttributeError):
                raise ConfigError(
                    ORIGINS_VARIABLE, text, "a JSON object of origins by setting", layer.source
                ) from None
    return {}


def unknown_setting(name: str, known: Iterable[str], source: str) -> ConfigError:
    """Return the error for an unknown name, with the names that resemble it."""
    names = sorted(known)
    return ConfigError.unknown(name, names, difflib.get_close_matches(name, names, n=1), source)


def reject_useless(fields_: Iterable[Field[Any]], layers: Sequence[Layer]) -> None:
    """Refuse variables that look like settings and would have no effect.

    Args:
        fields_: the fields of `Settings`.
        layers: the sources of variables.

    Raises:
        ConfigError: a variable is unknown or no longer acts.
    """
    known = {variable for f in fields_ for variable, _ in variables_of(f)}
    known |= RETIRED.keys() | _PROCESS_NAMES
    for layer in layers:
        # A name that other programs use too counts only beside variables that are certainly meant for this one.
        meant = layer.lines is not None or any(name.startswith(_OLD_PREFIXES) for name in layer.values)
        for name, value in layer.values.items():
            if name.startswith(_OWN_PREFIXES) and name not in known:
                raise unknown_setting(name, known, layer.place(name))
            if name in RETIRED and (meant or name.startswith(_OWN_PREFIXES)):
                refuse_retired(name, value, layer.place(name))


def masked(name: str, value: object) -> str:
    """Return a setting as a repr shows it, which may end up in a notebook: no key, and only the name of a key file."""
    if name == "key_id" and value is not None:
        return "***"
    if name == "private_key_path" and isinstance(value, str):
        return repr(f"…/{Path(value).name}")
    return repr(value)
