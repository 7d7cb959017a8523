"""What is judged and on what terms, as something that can be registered before it is.

A specification is the signal's name, parameters and code, the terms on which entries are made, the neighbouring
settings, and the measure; its hash names it in the registry (`kalshilab.edge.prereg.registry`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec

from kalshilab.edge.canonical_json import canonical, hash_of
from kalshilab.edge.lookahead.strategy import Strategy, strategy_of
from kalshilab.edge.prereg.registry import Hypothesis, Registry
from kalshilab.errors import EdgeError, RegistryError
from kalshilab.market.fee_schedule import FeeSchedule
from kalshilab.signals.engine.compiled_signal import plain

__all__ = [
    "Terms",
    "hypothesis_of",
    "registered",
    "session_registry",
    "specification",
    "terms_of",
    "trials_of",
]


JUDGED: Final = ("next_print", "book", "maker")
"""Rules of entry whose prices can be had."""


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """On what terms entries are made; part of what is registered."""

    rule: str = "next_print"
    """"next_print"; with recorded books "book", or "maker"."""
    latency: float = 2.0
    """Seconds from the fire until an order can be there."""
    window: float = 1800.0
    """Seconds within which it has to be filled."""
    contracts: int = 10
    """Size of an order, for the fee's rounding."""
    per_event: int | None = None
    """Entries of an event at most."""


@cache
def session_registry() -> Registry:
    """The registry of this process, in memory: what `validate` counts in when it is given none."""
    return Registry()


def hypothesis_of(
    signal: Any,
    *,
    id: str,
    family: str,
    mechanism: str,
    author: str,
    grid: Mapping[str, Sequence[Any]] | None = None,
    schedule: FeeSchedule | None = None,
    **terms: Any,
) -> Hypothesis:
    """What `validate` judges when it is given the same signal, grid and terms; to be registered before it is.

    Args:
        id, family, mechanism, author: as of `kalshilab.edge.prereg.registry.Hypothesis`.
        grid, schedule: neighbouring values of parameters and fees, as for `validate`.
        terms: of `Terms`.

    >>> import kalshilab as kl
    >>> idea = hypothesis_of(kl.signals.Rlm(), id="RLM_NO", family="rlm", mechanism="YES takers pay too much.", author="us")
    >>> idea.spec["signal"], idea.spec["terms"]["latency"]
    ('rlm', 2.0)
    """
    return Hypothesis(
        id, family, mechanism, author, specification(strategy_of(signal), terms_of(terms), grid, schedule)
    )


def terms_of(given: Mapping[str, Any]) -> Terms:
    """Terms of keywords.

    Raises:
        EdgeError: a keyword that is none, a value that is no such number, or a rule at whose prices nobody can buy.
    """
    try:
        terms = Terms(**{name: plain(value) for name, value in given.items()})
    except TypeError:
        known = ", ".join(Terms.__struct_fields__)
        unknown = next(name for name in given if name not in Terms.__struct_fields__)
        raise EdgeError(f"validate has no argument {unknown!r}; terms of entries are {known}") from None
    for name, kind, words in (
        ("latency", int | float, "seconds, from 0"), ("window", int | float, "seconds, from 0"),
        ("contracts", int, "a whole number from 1"), ("per_event", int | None, "a whole number from 1, or None"),
    ):  # fmt: skip
        value = getattr(terms, name)
        least = 1 if "whole" in words else 0
        if (
            not isinstance(value, kind)
            or isinstance(value, bool)
            or (value is not None and not value >= least)
        ):
            raise EdgeError(f"validate({name}={value!r}): {words}")
    if terms.rule not in JUDGED:
        raise EdgeError(
            f"rule={terms.rule!r}: judged are {', '.join(JUDGED)}; others are for diagnosis, by kl.edge.enter"
        )
    return terms


def specification(
    strategy: Strategy,
    on: Terms,
    grid: Mapping[str, Sequence[Any]] | None,
    schedule: FeeSchedule | None = None,
) -> dict[str, Any]:
    """The specification of a strategy, as plain values; fees of one's own are part of it.

    Raises:
        EdgeError: a parameter of the grid without a list of values.
    """
    for name, values in (grid or {}).items():
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise EdgeError(f"grid: {name} needs a list of values, not {values!r}")
    fees = {} if schedule is None else {"fees": schedule.described()}
    return fees | {
        "signal": strategy.name, "parameters": strategy.parameters, "code": strategy.code,
        "terms": msgspec.structs.asdict(on), "grid": None if grid is None else {k: list(v) for k, v in grid.items()},
        "metric": "mean over events of the event's mean net profit, cents a contract",
    }  # fmt: skip


def registered(
    registry: Registry | str | Path | None, strategy: Strategy, spec: dict[str, Any]
) -> tuple[Registry, str, str]:
    """The registry, the hypothesis' hash in it, and its family."""
    prereg = hash_of(spec)
    if registry is None:
        book = session_registry()
        if not book.registered(prereg):
            # A name of its own for each specification; trials are counted by family, which is the signal.
            book.register(
                Hypothesis(f"{strategy.name}-{prereg[:12]}", strategy.name, "not said", "this process", spec)
            )
        return book, prereg, book.hypothesis(prereg).family
    book = registry if isinstance(registry, Registry) else Registry(registry)
    if not book.registered(prereg):
        raise RegistryError(
            f"{strategy.label} on these terms is not registered; before it is judged, "
            "registry.register(kl.edge.hypothesis_of(signal, id=..., family=..., mechanism=..., author=..., and the same terms))"
        )
    return book, prereg, book.hypothesis(prereg).family


def trials_of(
    book: Registry, prereg: str, family: str, points: Sequence[Mapping[str, Any]], data: str
) -> int:
    """Trials of the family, these points included."""
    known = {canonical(e.trial.parameters) for e in book.evaluations(prereg) if e.data_hash == data}
    return book.trials(family) + len({canonical(point) for point in points} - known)
