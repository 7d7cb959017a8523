"""Specifications of hypotheses: what `validate` will judge and on which terms, so that it can be registered first.

A specification holds the name, parameters and code of the signal, the terms of entry, the neighbouring settings and
the metric. Its hash identifies it in the registry (`kalshilab.edge.prereg.registry`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final

import msgspec

from kalshilab.deprecation import renamed_keywords
from kalshilab.edge.canonical_json import canonical, hash_of
from kalshilab.edge.lookahead.strategy import Strategy, strategy_of
from kalshilab.edge.prereg.append_log import JsonRecord
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
"""Entry rules whose prices are attainable."""


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """Terms of entry; they are part of the registered specification."""

    rule: str = "next_print"
    """Entry rule: "next_print"; with recorded books also "book" or "maker"."""
    latency: float = 2.0
    """Seconds from the signal until an order can arrive, at least 0."""
    window: float = 1800.0
    """Seconds within which the order must be filled, at least 0."""
    contracts: int = 10
    """Contracts per order, for the rounding of the fee."""
    per_event: int | None = None
    """Largest number of entries per event; None: no limit."""


@cache
def session_registry() -> Registry:
    """Return the registry of this process, in memory: `validate` uses it if no registry is given."""
    return Registry()


def hypothesis_of(
    signal: object,
    *,
    id: str,
    family: str,
    mechanism: str,
    author: str,
    grid: Mapping[str, Sequence[object]] | None = None,
    schedule: FeeSchedule | None = None,
    **terms: object,
) -> Hypothesis:
    """Return the hypothesis that `validate` judges for the same signal, grid, schedule and terms.

    Register it before you validate it.

    Args:
        signal: a signal, or a function from a tape to fires, as for `validate`.
        id: short name (`Hypothesis.id`).
        family: family whose trials are counted together (`Hypothesis.family`).
        mechanism: reason why the other side should lose money (`Hypothesis.mechanism`).
        author: name of the author (`Hypothesis.author`).
        grid: neighbouring values by parameter, as for `validate`.
        schedule: fees, as for `validate`; None: the standard fees.
        terms: fields of `Terms`.

    >>> import kalshilab as kl
    >>> idea = hypothesis_of(kl.signals.Rlm(), id="RLM_NO", family="rlm", mechanism="YES takers pay too much.", author="us")
    >>> idea.spec["signal"], idea.spec["terms"]["latency"]
    ('rlm', 2.0)
    """
    return Hypothesis(
        id, family, mechanism, author, specification(strategy_of(signal), terms_of(terms), grid, schedule)
    )


def terms_of(given: Mapping[str, object]) -> Terms:
    """Return the terms of entry that keywords describe.

    Raises:
        EdgeError: a keyword is unknown, a value is out of range, or the prices of the rule are not attainable.
    """
    try:
        terms = Terms(**{name: plain(value) for name, value in given.items()})
    except TypeError:
        known = ", ".join(Terms.__struct_fields__)
        unknown = next(name for name in given if name not in Terms.__struct_fields__)
        raise EdgeError(f"validate has no argument {unknown!r}; the terms of entry are {known}") from None
    for name, kind, least, rule in (
        ("latency", int | float, 0, "seconds of at least 0"), ("window", int | float, 0, "seconds of at least 0"),
        ("contracts", int, 1, "a whole number of at least 1"),
        ("per_event", int | None, 1, "None or a whole number of at least 1"),
    ):  # fmt: skip
        value = getattr(terms, name)
        if (
            not isinstance(value, kind)
            or isinstance(value, bool)
            or (value is not None and not value >= least)
        ):
            raise EdgeError(f"{name} must be {rule}, got {value!r}")
    if terms.rule not in JUDGED:
        raise EdgeError(
            f"rule must be one of {', '.join(JUDGED)}, got {terms.rule!r}; other rules are for diagnosis with "
            "kl.edge.enter"
        )
    return terms


def specification(
    strategy: Strategy,
    on: Terms,
    grid: Mapping[str, Sequence[object]] | None,
    schedule: FeeSchedule | None = None,
) -> JsonRecord:
    """Return the specification of a strategy as plain values; custom fees are part of it.

    Raises:
        EdgeError: a parameter of the grid has no list of values.
    """
    for name, values in (grid or {}).items():
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise EdgeError(f"grid: {name} must be a list of values, got {values!r}")
    fees = {} if schedule is None else {"fees": schedule.described()}
    return fees | {
        "signal": strategy.name, "parameters": strategy.parameters, "code": strategy.code,
        "terms": msgspec.structs.asdict(on), "grid": None if grid is None else {k: list(v) for k, v in grid.items()},
        "metric": "mean over events of the event's mean net profit, cents a contract",
    }  # fmt: skip


def registered(
    registry: Registry | str | Path | None, strategy: Strategy, spec: JsonRecord
) -> tuple[Registry, str, str]:
    """Return the registry, the hash of the hypothesis in it, and its family.

    Args:
        registry: a registry or its file; None: the registry of this process, in which the hypothesis is registered
            if it is new.
        strategy: the strategy that is judged.
        spec: its specification (`specification`).

    Raises:
        RegistryError: the hypothesis is not in the given registry.
    """
    prereg_hash = hash_of(spec)
    if registry is None:
        session = session_registry()
        if not session.registered(prereg_hash):
            # Each specification gets a unique id; its family, by which trials are counted, is the signal.
            unique_id = f"{strategy.name}-{prereg_hash[:12]}"
            session.register(Hypothesis(unique_id, strategy.name, "not stated", "this process", spec))
        return session, prereg_hash, session.hypothesis(prereg_hash).family
    opened = registry if isinstance(registry, Registry) else Registry(registry)
    if not opened.registered(prereg_hash):
        raise RegistryError(
            f"{strategy.label} on these terms is not registered; before you validate it, call registry.register("
            "kl.edge.hypothesis_of(signal, id=..., family=..., mechanism=..., author=..., and the same terms))"
        )
    return opened, prereg_hash, opened.hypothesis(prereg_hash).family


@renamed_keywords(book="registry", prereg="prereg_hash", data="data_hash")
def trials_of(
    registry: Registry, prereg_hash: str, family: str, points: Sequence[Mapping[str, object]], data_hash: str
) -> int:
    """Return the number of trials of the family, these parameter points on these data included."""
    known = {
        canonical(e.trial.parameters) for e in registry.evaluations(prereg_hash) if e.data_hash == data_hash
    }
    return registry.trials(family) + len({canonical(point) for point in points} - known)
