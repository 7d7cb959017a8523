"""Does a condition of the rule matter at all?  The rule beside what it would be without.

Where a placebo earns what the rule earns, what was changed makes no difference that shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import polars as pl

from kalshilab.edge.lookahead.settlement_facts import point_in_time
from kalshilab.edge.lookahead.strategy import Strategy, strategy_of
from kalshilab.edge.schema import event_means
from kalshilab.edge.stats.inference import bootstrap
from kalshilab.errors import SignalError
from kalshilab.tape.lake.opening import tape_of
from kalshilab.tape.tape import Tape, TapeLike

__all__ = ["placebos", "variants"]


def variants(strategy: Any) -> dict[str, Any]:
    """A rule and its placebos, for `placebos`: each condition dropped, the side mirrored, the other side bought.

    A parameter that asks for at least so much (`min_…`, `…_threshold`) is dropped by asking for nothing.  What a
    signal refuses is left out; a function has no conditions to be told by name.

    >>> import kalshilab as kl
    >>> list(variants(kl.signals.Rlm()))
    ['rule', 'without yes_threshold', 'without min_trades', 'without min_drop', 'mirrored', 'other side']
    """
    one = strategy_of(strategy)
    found: dict[str, Any] = {"rule": one}
    if one.signal is not None:
        own = one.signal.parameters
        for name, value in own.items():
            asks = name.startswith("min_") or name.endswith("_threshold")
            if asks and isinstance(value, int | float) and not isinstance(value, bool) and value:
                _add_variant(found, f"without {name}", one.signal, {name: 0}, {name: 1})
        if own.get("side") in ("yes", "no"):
            _add_variant(found, "mirrored", one.signal, {"side": "no" if own["side"] == "yes" else "yes"})

    def other(tape: Tape, markets: pl.DataFrame | None) -> pl.DataFrame:
        word = pl.col("side").cast(pl.String)
        fires = one.fires(tape, markets)
        return fires.with_columns(
            pl.when(word == "yes").then(pl.lit("no")).otherwise(pl.lit("yes")).alias("side")
        )

    found["other side"] = Strategy(one.name, one.parameters, one.code, other)
    return found


def _add_variant(found: dict[str, Any], name: str, signal: Any, *changes: dict[str, Any]) -> None:
    for change in changes:
        try:
            found[name] = type(signal)(**{**signal.parameters, **change})
        except SignalError:
            continue
        return


def placebos(
    strategies: Mapping[str, Any],
    tape: TapeLike,
    markets: pl.DataFrame,
    enter: Callable[[pl.DataFrame], pl.DataFrame],
) -> pl.DataFrame:
    """The edge of variants of a rule: a condition dropped, inverted or mirrored.

    Args:
        strategies: by name; the first is the rule itself.
        enter: entries of fires.

    Returns:
        `name, edge, lower, upper` (cents), `n_events, inert`: whether the interval of a variant holds the rule's own
        edge, so that what was changed makes no difference that shows.

    >>> import kalshilab as kl
    >>> tape, markets = kl.sample()
    >>> rules = variants(kl.signals.Rlm(min_trades=15))
    >>> found = placebos(rules, tape, markets, lambda fires: kl.edge.enter(fires, tape, markets))
    >>> found.columns
    ['name', 'edge', 'lower', 'upper', 'n_events', 'inert']
    """
    opened = tape_of(tape)
    rows: list[dict[str, Any]] = []
    for name, strategy in strategies.items():
        fires = strategy_of(strategy).anew().fires(opened, point_in_time(markets))
        means = event_means(enter(fires))
        row: dict[str, Any] = {
            "name": name,
            "edge": None,
            "lower": None,
            "upper": None,
            "n_events": len(means),
        }
        if len(means) > 1:
            found = bootstrap(means, np.arange(len(means)), b=499)
            row |= {"edge": found.estimate, "lower": found.lower, "upper": found.upper}
        own = rows[0]["edge"] if rows else row["edge"]
        within = None if own is None or row["edge"] is None else row["lower"] <= own <= row["upper"]
        rows.append({**row, "inert": within if rows else None})
    return pl.DataFrame(rows, schema_overrides={"inert": pl.Boolean})
