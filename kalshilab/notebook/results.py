"""Machine-readable results of a notebook.

`record` displays a value as a MIME bundle of a dedicated type: papermill saves it, nbval compares it exactly, and
`read_results` reads it back from the saved notebook.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import nbformat
from IPython.display import display

from kalshilab.errors import SessionError

__all__ = ["MIME", "read_results", "record", "rounded"]

MIME: Final = "application/vnd.kalshilab.result+json"

WIDTH: Final = 110
"""Line length of a displayed record, in characters."""

NO_BREAK: Final = "\N{NO-BREAK SPACE}"


def rounded(value: object, digits: int = 6) -> object:
    """Round every float in a value, so that machine-dependent last bits are not recorded.

    Args:
        value: a scalar, a mapping or a sequence, nested to any depth.
        digits: decimal places to keep.

    >>> rounded({"edge": 0.1 + 0.2, "n": 3})
    {'edge': 0.3, 'n': 3}
    """
    if isinstance(value, float):
        return round(value, digits)
    if isinstance(value, Mapping):
        return {str(k): rounded(v, digits) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v, digits) for v in value]
    return value


def record(name: str, value: object, *, digits: int = 6) -> None:
    """Record a value under a name in the running notebook.

    A reader sees the value as plain text, in a notebook and outside one.

    Args:
        name: name to read the value back by.
        value: a scalar, a mapping or a sequence that JSON can hold.
        digits: decimal places that floats are rounded to.
    """
    value = rounded(value, digits)
    display({MIME: {"name": name, "value": value}, "text/plain": _text(name, value)}, raw=True)  # type: ignore[no-untyped-call]


def _text(name: str, value: object) -> str:
    """Return a record as text; a mapping becomes its names and values, wrapped into lines.

    >>> print(_text("edge", {"verdict": "VALID", "net": 1.52, "failed": None}))
    edge: verdict VALID · net 1.52 · failed –
    """
    if not isinstance(value, Mapping):
        return f"{name}: {_word(value)}"
    parts = [f"{key} {_word(item)}".replace(" ", NO_BREAK) for key, item in value.items()]
    lines = textwrap.wrap(
        f"{name}: {' · '.join(parts)}",
        WIDTH,
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines).replace(NO_BREAK, " ")


def _word(value: object) -> str:
    return "–" if value is None else ", ".join(map(_word, value)) if isinstance(value, list) else str(value)


def read_results(path: str | Path) -> dict[str, Any]:
    """Return the values that a saved notebook recorded, by name; the last of two equal names wins.

    Raises:
        SessionError: if the file does not exist or is not a notebook.
    """
    try:
        notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    except FileNotFoundError:
        raise SessionError(f"{path}: no such notebook") from None
    except (
        nbformat.reader.NotJSONError,
        nbformat.validator.NotebookValidationError,
        UnicodeDecodeError,
    ) as error:
        raise SessionError(f"{path}: not a notebook ({error})") from None
    recorded: dict[str, Any] = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            bundle = output.get("data", {}).get(MIME)
            if bundle:
                recorded[bundle["name"]] = bundle["value"]
    return recorded
