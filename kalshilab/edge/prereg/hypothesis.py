"""What is judged and on what terms, as something that can be registered before it is.

A specification is the signal's name, parameters and code, the terms on which entries are made, the neighbouring
settings, and the measure; its hash names it in the registry (`kalshilab.edge.prereg.registry`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from kalshilab.edge.canonical_json import canonical, hash_of
from kalshilab.edge.entries.terms import EntryTerms, terms_of
from kalshilab.edge.lookahead.strategy import AuditedStrategy, strategy_of
from kalshilab.edge.prereg.registry import Hypothesis, Registry
from kalshilab.errors import EdgeError, RegistryError

__all__ = [
    "hypothesis_of",
    "judged_terms",
    "registered",
    "session_registry",
    "specification",
    "trials_of",
]


JUDGED: Final = ("next_print", "book", "maker")
"""Rules of entry whose prices can be obtained."""


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
    grid: Mapping[str, Sequence[object]] | None = None,
    terms: EntryTerms | None = None,
    **changes: object,
) -> Hypothesis:
    """What `validate` judges when it is given the same signal, grid and terms; to be registered before it is.

    Args:
        id, family, mechanism, author: as of `kalshilab.edge.prereg.registry.Hypothesis`.
        grid: neighbouring values of parameters, as for `validate`.
        terms, changes: the terms of entry, as for `validate`.

    >>> import kalshilab as kl
    >>> idea = hypothesis_of(kl.signals.Rlm(), id="RLM_NO", family="rlm", mechanism="YES takers pay too much.", author="us")
    >>> idea.spec["signal"], idea.spec["terms"]["latency"]
    ('rlm', 2.0)
    """
    on = judged_terms(terms_of("hypothesis_of", terms, changes))
    return Hypothesis(id, family, mechanism, author, specification(strategy_of(signal), on, grid))


def judged_terms(terms: EntryTerms) -> EntryTerms:
    """Return terms on which a verdict can be given.

    Raises:
        EdgeError: nobody can trade at the prices of the rule.
    """
    if terms.rule not in JUDGED:
        raise EdgeError(
            f"rule must be one of {', '.join(JUDGED)}, got {terms.rule!r}; the other rules are for diagnosis, "
            "with kl.edge.enter"
        )
    return terms


def specification(
    strategy: AuditedStrategy,
    on: EntryTerms,
    grid: Mapping[str, Sequence[object]] | None,
) -> dict[str, Any]:
    """Return the specification of a strategy as plain values, with the fee schedule if one is given.

    The keys are those of version 0.1: they are hashed, and registered hypotheses keep their hash.

    Raises:
        EdgeError: a parameter of the grid without a list of values.
    """
    for name, values in (grid or {}).items():
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise EdgeError(f"grid: {name} needs a list of values, not {values!r}")
    fees = {} if on.schedule is None else {"fees": on.schedule.described()}
    terms = {
        "rule": on.rule,
        "latency": on.latency_s,
        "window": on.window_s,
        "contracts": on.contracts,
        "per_event": on.per_event,
    }
    return fees | {
        "signal": strategy.name, "parameters": strategy.parameters, "code": strategy.code,
        "terms": terms, "grid": None if grid is None else {k: list(v) for k, v in grid.items()},
        "metric": "mean over events of the event's mean net profit, cents a contract",
    }  # fmt: skip


def registered(
    registry: Registry | str | Path | None, strategy: AuditedStrategy, spec: dict[str, Any]
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
