"""Specifications of hypotheses: what `validate` will judge and on which terms, so that it can be registered first.

A specification holds the name, parameters and code of the signal, the terms of entry, the neighbouring settings and
the metric. Its hash identifies it in the registry (`kalshilab.edge.prereg.registry`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final

from kalshilab.deprecation import renamed_keywords
from kalshilab.edge.canonical_json import canonical, hash_of
from kalshilab.edge.entries.terms import EntryTerms, terms_of
from kalshilab.edge.lookahead.strategy import AuditedStrategy, strategy_of
from kalshilab.edge.prereg.append_log import JsonRecord
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
    terms: EntryTerms | None = None,
    **changes: object,
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
        terms: the terms of entry, as for `validate`; None: `EntryTerms()`.
        **changes: fields of `EntryTerms` that differ from `terms`.

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
) -> JsonRecord:
    """Return the specification of a strategy as plain values, with the fee schedule if one is given.

    The keys are those of version 0.1: they are hashed, and registered hypotheses keep their hash.

    Raises:
        EdgeError: a parameter of the grid has no list of values.
    """
    for name, values in (grid or {}).items():
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise EdgeError(f"grid: {name} must be a list of values, got {values!r}")
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
    registry: Registry | str | Path | None, strategy: AuditedStrategy, spec: JsonRecord
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
