"""Provenance of a run: everything that decided what it did, as one value of plain JSON types.

It is part of `report.json` and of the journal's first note, so a run that was killed has it too.  Keys are never in it: a
setting that holds one shows only that it is set.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import platform
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from kalshilab.config.readers import text_of
from kalshilab.config.settings import Settings
from kalshilab.edge.lookahead.strategy import strategy_of
from kalshilab.tape.sample import sample as bundled
from kalshilab.trade.session.plans import Planned

__all__ = ["changed", "provenance_of"]

SECRETS: Final = {"key_id", "private_key"}
"""Settings of which only the presence is recorded."""
USER_INFO: Final = re.compile(r"//[^/@]*@")
PACKAGES: Final = (
    "kalshilab", "aiohttp", "httpx", "httptools", "msgspec", "numba", "numpy", "picows", "polars", "pyarrow", "scipy",
    "websockets",
)  # fmt: skip
"""The packages that take part in a decision or in the record; those that are not installed are left out."""


def provenance_of(settings: Settings, strategies: Iterable[Planned]) -> dict[str, Any]:
    """Return the provenance of a run.

    It holds `settings` (value and origin of each), `strategies` (class, module, file and hash of the source, and the same
    of the signal with its parameters and its identity as on a report card), `data` (path and SHA-256 of the tape and the
    markets; None on a venue without a tape), `packages` (versions), `python` and `platform`.

    Args:
        settings: the settings of the run.
        strategies: its strategies.

    >>> from kalshilab.trade.session.plans import planned_of_settings
    >>> settings = Settings(env={"RLM_CONTRACTS": "7"}, env_file=None)
    >>> found = provenance_of(settings, planned_of_settings(settings))
    >>> found["settings"]["contracts"]
    {'value': 7.0, 'origin': 'environment variable RLM_CONTRACTS'}
    >>> found["strategies"]["rlm_no"]["signal"]["module"]
    'kalshilab.signals.builtin.rlm'
    """
    return {
        "settings": {
            name: {"value": _shown(name, value), "origin": settings.origins[name]}
            for name, value in settings.as_dict().items()
        },
        "strategies": {
            name: _code_of(type(strategy)) | {"why": strategy.why, "signal": _signal(strategy.signal)}
            for name, strategy, _ in strategies
        },
        "data": _data(settings),
        "packages": _packages(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def _shown(name: str, value: object) -> object:
    """Return a setting as plain JSON; a key only as present, the path of one as its name, an address without user info."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if name in SECRETS:
        return "***"
    if name == "private_key_path":
        return f"…/{Path(str(value)).name}"
    return USER_INFO.sub("//***@", text_of(value))


def _signal(signal: object) -> dict[str, Any] | None:
    """Return name, parameters, identity and source of a signal; None for a strategy without one."""
    if signal is None:
        return None
    audited = strategy_of(signal)
    step = getattr(getattr(signal, "declaration", None), "step", None)
    return {
        "name": audited.name,
        "parameters": {name: _plain(value) for name, value in audited.parameters.items()},
        "identity": audited.identity,
        **_code_of(type(signal) if step is None else step),
    }


def _plain(value: object) -> object:
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)


def _code_of(thing: Any) -> dict[str, Any]:
    """Return where a class or a function is defined, and the hashes of its source and of its file; None if unknown."""
    try:
        source = inspect.getsource(thing)
    except (OSError, TypeError):
        source = None
    try:
        file = inspect.getsourcefile(thing)
    except TypeError:
        file = None
    return {
        "class": getattr(thing, "__qualname__", type(thing).__qualname__),
        "module": getattr(thing, "__module__", None),
        "source_sha256": None if source is None else hashlib.sha256(source.encode()).hexdigest(),
        "file": file,
        "file_sha256": _hash_of(Path(file)) if file and Path(file).is_file() else None,
    }


def _data(settings: Settings) -> dict[str, dict[str, str | None]] | None:
    """Return path and hash of each file that the embedded venue plays."""
    if settings.venue != "embedded":
        return None
    sample = Path(inspect.getfile(bundled)).parent
    files = {
        "tape": settings.tape or sample / "trades.parquet",
        "markets": settings.markets or sample / "markets.parquet",
    }
    paths = {name: Path(file).expanduser() for name, file in files.items()}
    return {
        name: {
            "path": str(path) if getattr(settings, name) else "bundled sample",
            "sha256": _hash_of(path) if path.is_file() else None,
        }
        for name, path in paths.items()
    }


def _hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def _packages() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def changed(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> list[str]:
    """Return what differs between the provenance of two lives of a run, as paths such as "settings.contracts.value".

    >>> changed({"python": "3.11.1", "data": None}, {"python": "3.12.0", "data": None})
    ['python']
    """
    paths = []
    for name in sorted(earlier.keys() | later.keys()):
        one, other = earlier.get(name), later.get(name)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            paths += [f"{name}.{path}" for path in changed(one, other)]
        elif one != other:
            paths.append(name)
    return paths
