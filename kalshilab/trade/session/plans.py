"""The strategies that a session or a backtest trades, from what its user names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from kalshilab.config.settings import STRATEGIES, Settings
from kalshilab.edge.lookahead.strategy import strategy_of
from kalshilab.errors import SessionError
from kalshilab.signals import Signal
from kalshilab.trade.core.exposure import Budget, budgets_of
from kalshilab.trade.core.strategy_runs import strategies_of
from kalshilab.trade.strategies.strategies import Bought, Strategy, make_strategy

__all__ = ["Identity", "Plan", "Planned", "identity_of", "planned", "planned_of_settings"]

Plan: TypeAlias = "str | Strategy | Signal | tuple[str, str | Strategy | Signal, Budget]"
"""A strategy to trade: one of `STRATEGIES`, a strategy, a signal, or a name with one of them and a budget."""

Planned: TypeAlias = tuple[str, Strategy, Budget]
"""A strategy as a trader takes it: its name, the strategy, and its limits."""


def planned(plans: Plan | Sequence[Plan], settings: Settings) -> list[Planned]:
    """Return the strategies of plans, in their order.

    Args:
        plans: a plan, or a list of them.
        settings: the sizes, spreads and parameters of strategies that are named.

    >>> settings = Settings(env={}, env_file=None)
    >>> [name for name, _, _ in planned(["rlm_no", ("mine", "whale_fade", Budget(positions=3))], settings)]
    ['rlm_no', 'mine']

    Raises:
        SessionError: there is no plan, a name is unknown, or a plan is neither a strategy nor a signal.
    """
    listed: Sequence[Plan] = plans if isinstance(plans, list) else [plans]  # type: ignore[list-item]
    if not listed:
        raise SessionError("strategies must name at least one strategy, got none")
    return [_planned(plan, settings) for plan in listed]


def planned_of_settings(settings: Settings) -> list[Planned]:
    """Return the strategies that the settings name, with their budgets."""
    return strategies_of(settings)


class Identity(NamedTuple):
    """Text that identifies the strategies of a session in its record.

    Attributes:
        names: the names of the strategies.
        why: the reason for which no strategy places orders, or "".
        signals: the identities of their signals, as the audit of a report card names them.
    """

    names: str
    why: str
    signals: str


def identity_of(plans: Sequence[Planned]) -> Identity:
    """Return what strategies trade, as text."""
    reasons = [strategy.why for _, strategy, _ in plans]
    signals = [strategy.signal for _, strategy, _ in plans]
    return Identity(
        names=", ".join(name for name, _, _ in plans),
        why=reasons[0] if all(reasons) else "",
        signals="; ".join(strategy_of(signal).identity for signal in signals if signal is not None),
    )


def _planned(plan: Plan, settings: Settings) -> Planned:
    if isinstance(plan, tuple):
        name, thing, budget = plan
        return name, _strategy(thing, settings), budget
    strategy = _strategy(plan, settings)
    name = plan if isinstance(plan, str) else str(getattr(plan, "name", strategy.name))
    return name, strategy, budgets_of(settings).get(name, Budget())


def _strategy(thing: object, settings: Settings) -> Strategy:
    if isinstance(thing, str):
        if thing not in STRATEGIES:
            raise SessionError(f"unknown strategy {thing!r}; choose from {', '.join(STRATEGIES)}")
        return make_strategy(settings.replace(strategy=thing))
    if callable(getattr(thing, "quote", None)):
        return thing  # type: ignore[return-value]
    if callable(getattr(thing, "update", None)):
        return Bought(settings, thing.with_parameters() if hasattr(thing, "with_parameters") else thing)  # type: ignore[arg-type]
    raise SessionError(
        f"strategies must be names, strategies or signals, got {type(thing).__name__}; "
        "create a signal first, as in kl.signals.Rlm()"
    )
