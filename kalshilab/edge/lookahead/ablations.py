"""Compare a rule with its placebos: the same rule with a condition dropped, inverted or mirrored.

If a placebo has the edge of the rule, the changed condition makes no measurable difference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import polars as pl
from polars._typing import PolarsDataType

from kalshilab.edge.lookahead.settlement_facts import point_in_time
from kalshilab.edge.lookahead.strategy import AuditedStrategy, strategy_of
from kalshilab.edge.schema import event_means
from kalshilab.edge.stats.inference import bootstrap
from kalshilab.errors import SignalError
from kalshilab.signals.engine.compiled_signal import CompiledSignal
from kalshilab.tape.lake.opening import tape_of
from kalshilab.tape.tape import Tape, TapeLike

__all__ = ["placebos", "variants"]

Variant = AuditedStrategy | CompiledSignal
_RESAMPLES: Final = 499
_PLACEBOS: Final[dict[str, PolarsDataType]] = {
    "name": pl.String,
    "edge": pl.Float64,
    "lower": pl.Float64,
    "upper": pl.Float64,
    "n_events": pl.Int64,
    "inert": pl.Boolean,
}


def variants(strategy: object) -> dict[str, Variant]:
    """Return a rule and its placebos by name, for `placebos`; the rule is first.

    Each condition is dropped, the side is mirrored, and the other side is bought. A parameter with a lower limit
    (`min_…`, `…_threshold`) is dropped by setting it to its smallest value. Values that a signal refuses are left out. A
    function has no parameters, so only its other side is bought.

    Args:
        strategy: a signal or a function.

    >>> import kalshilab as kl
    >>> list(variants(kl.signals.Rlm()))
    ['rule', 'without yes_threshold', 'without min_trades', 'without min_drop', 'mirrored', 'other side']
    """
    rule = strategy_of(strategy)
    found: dict[str, Variant] = {"rule": rule}
    if rule.signal is not None:
        parameters = rule.signal.parameters
        for name, value in parameters.items():
            limit = name.startswith("min_") or name.endswith("_threshold")
            if limit and isinstance(value, int | float) and not isinstance(value, bool) and value:
                _add_variant(found, f"without {name}", rule.signal, {name: 0}, {name: 1})
        if parameters.get("side") in ("yes", "no"):
            mirrored = "no" if parameters["side"] == "yes" else "yes"
            _add_variant(found, "mirrored", rule.signal, {"side": mirrored})

    def other_side(tape: Tape, markets: pl.DataFrame | None) -> pl.DataFrame:
        side = pl.col("side").cast(pl.String)
        fires = rule.fires(tape, markets)
        return fires.with_columns(
            pl.when(side == "yes").then(pl.lit("no")).otherwise(pl.lit("yes")).alias("side")
        )

    found["other side"] = AuditedStrategy(rule.name, rule.parameters, rule.code, other_side)
    return found


def _add_variant(
    found: dict[str, Variant], name: str, signal: CompiledSignal, *changes: dict[str, object]
) -> None:
    """Add the signal with the first of some changes that it accepts."""
    for change in changes:
        try:
            found[name] = signal.with_parameters(**change)
        except SignalError:
            continue
        return


def placebos(
    strategies: Mapping[str, object],
    tape: TapeLike,
    markets: pl.DataFrame,
    enter: Callable[[pl.DataFrame], pl.DataFrame],
) -> pl.DataFrame:
    """Return the edge of a rule and of its variants.

    Args:
        strategies: signals or functions by name; the first is the rule itself.
        tape: a tape of any kind.
        markets: `kl.to_markets`; functions receive it without settlement facts.
        enter: `fires -> entries`.

    Returns:
        One row per strategy: `name, edge, lower, upper` (cents), `n_events, inert`. A variant is inert if its interval
        contains the rule's edge, so that the change makes no measurable difference; null for the rule.

    >>> import kalshilab as kl
    >>> tape, markets = kl.sample()
    >>> rules = variants(kl.signals.Rlm(min_trades=15))
    >>> found = placebos(rules, tape, markets, lambda fires: kl.edge.enter(fires, tape, markets))
    >>> found.columns
    ['name', 'edge', 'lower', 'upper', 'n_events', 'inert']
    """
    opened = tape_of(tape)
    rows: list[tuple[str, float | None, float | None, float | None, int, bool | None]] = []
    for name, strategy in strategies.items():
        fires = strategy_of(strategy).clone().fires(opened, point_in_time(markets))
        means = event_means(enter(fires))
        edge = lower = upper = inert = None
        if len(means) > 1:
            found = bootstrap(means, np.arange(len(means)), resamples=_RESAMPLES)
            edge, lower, upper = found.estimate, found.lower, found.upper
        rule_edge = rows[0][1] if rows else None
        if rule_edge is not None and lower is not None and upper is not None:
            inert = lower <= rule_edge <= upper
        rows.append((name, edge, lower, upper, len(means), inert))
    return pl.DataFrame(rows, schema=_PLACEBOS, orient="row")
