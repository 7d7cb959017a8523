"""Signature and `Args:` section of `Settings`, made from its fields, so that completion and help list each of them."""

from __future__ import annotations

import inspect
import textwrap
from dataclasses import Field, fields
from typing import TYPE_CHECKING, Any, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["document"]


def document(cls: type[DataclassInstance]) -> None:
    """Give a class of settings its signature, and insert an `Args:` section before `Raises:` in its docstring.

    Args:
        cls: a dataclass whose fields hold `reader`, `older` and `doc` as metadata, with an `__init__` that takes
            them as keywords beside `env` and `env_file`.
    """
    cls.__signature__ = _signature(cls)  # type: ignore[attr-defined]
    # Under `python -OO` there is no docstring to extend.
    if cls.__doc__:
        head, raises, tail = cls.__doc__.partition("    Raises:\n")
        entries = [
            *map(_entry, fields(cls)),
            "        env: variables to read instead of the environment.",
            '        env_file: file of variables; None reads no file. Default: ".env".',
        ]
        cls.__doc__ = f"{head}    Args:\n" + "\n".join(entries) + f"\n\n{raises}{tail}"


def _signature(cls: type[DataclassInstance]) -> inspect.Signature:
    keywords = inspect.signature(cls.__init__).parameters
    defaults = {f.name: f.default for f in fields(cls)}
    defaults |= {name: keywords[name].default for name in ("env", "env_file")}
    hints = get_type_hints(cls) | get_type_hints(cls.__init__)
    return inspect.Signature(
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[name])
            for name, default in defaults.items()
        ]
    )


def _entry(f: Field[Any]) -> str:
    """Return the entry of a field: documentation, allowed values, default and older variables."""
    older = [o if isinstance(o, str) else o[0] for o in f.metadata["older"]]
    variables = f" Older variable: {', '.join(older)}." if older else ""
    allowed = f.metadata["reader"].allowed
    text = f"{f.name}: {f.metadata['doc']}. Allowed: {allowed}. Default: {f.default!r}.{variables}"
    return textwrap.fill(
        text, 116, initial_indent=" " * 8, subsequent_indent=" " * 12, break_on_hyphens=False
    )
