"""Numbers a notebook stands for, kept where machines find them.

`record` displays a value as a MIME bundle of its own: papermill saves it, nbval compares it exactly, and
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
"""Characters a line of what is shown of a record."""

NO_BREAK: Final = "\N{NO-BREAK SPACE}"


def rounded(value: Any, digits: int = 6) -> Any:
    """`value` with every float in it rounded, so that the last bits of a machine's arithmetic are not recorded.

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


def record(name: str, value: Any, *, digits: int = 6) -> None:
    """Record a value under a name in the running notebook; floats are rounded to `digits`.

    What is seen of it, and all that is seen outside a notebook, is plain text.
    """
    kept = rounded(value, digits)
    display({MIME: {"name": name, "value": kept}, "text/plain": _text(name, kept)}, raw=True)  # type: ignore[no-untyped-call]


def _text(name: str, kept: Any) -> str:
    """A record to be read: a mapping as its names and values, in lines.

    >>> print(_text("edge", {"verdict": "VALID", "net": 1.52, "failed": None}))
    edge: verdict VALID · net 1.52 · failed –
    """
    if not isinstance(kept, Mapping):
        return f"{name}: {_word(kept)}"
    parts = [f"{key} {_word(value)}".replace(" ", NO_BREAK) for key, value in kept.items()]
    lines = textwrap.wrap(
        f"{name}: {' · '.join(parts)}",
        WIDTH,
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines).replace(NO_BREAK, " ")


def _word(value: Any) -> str:
    return "–" if value is None else ", ".join(map(_word, value)) if isinstance(value, list) else str(value)


def read_results(path: str | Path) -> dict[str, Any]:
    """What a saved notebook recorded, by name; the last of two equal names wins.

    Raises:
        SessionError: no such file, or not a notebook.
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
    found: dict[str, Any] = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            kept = output.get("data", {}).get(MIME)
            if kept:
                found[kept["name"]] = kept["value"]
    return found
