"""Settings that contradict each other: with them no order could be placed, or one of them could never act."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from kalshilab.config.sources import DEFAULT, strength
from kalshilab.errors import ConfigError

if TYPE_CHECKING:
    from kalshilab.config.settings import Settings

__all__ = ["check_limits"]

_NO_ORDER: Final = "or no order could be placed"
_NO_EFFECT: Final = "or it could never act"


class _AtMost(NamedTuple):
    """The rule that one number is at most another; a limit of 0 does not apply.  `equal` states whether it may be the same."""

    name: str
    limit: str
    why: str
    equal: bool = True


_PAIRS: Final = (
    _AtMost("tight_spread_cents", "normal_spread_cents", _NO_EFFECT),
    _AtMost("normal_spread_cents", "max_spread_cents", _NO_EFFECT),
    _AtMost("yes8090_low", "yes8090_high", _NO_ORDER),
    _AtMost("max_event", "max_category", _NO_EFFECT),
)
_SIZE_LIMITS: Final = ("max_position", "group_contracts")
_CASH: Final = (
    _AtMost("min_cash", "balance", _NO_ORDER, equal=False),
    _AtMost("daily_loss", "balance", _NO_EFFECT, equal=False),
)
_SIZES: Final = {
    "hold": (),
    "whale_follower": (),
    "paper_test": (),
    "yes_80_90": ("yes8090_contracts", "yes8090_tier_a_contracts"),
}
"""The order sizes of the strategies that do not use `contracts`."""


def check_limits(settings: Settings) -> None:
    """Check that no setting makes another one pointless, which a session does before it starts.

    Args:
        settings: the settings, each of which is allowed by itself.

    >>> from kalshilab.config.settings import Settings
    >>> check_limits(Settings(env={}, env_file=None, contracts=20, max_position=10))
    Traceback (most recent call last):
    kalshilab.errors.ConfigError: contracts must be at most max_position (10), or no order could be placed, got 20.0

    Raises:
        ConfigError: two settings contradict each other; the first such pair is named.
    """
    for name, allowed in _contradictions(settings):
        origin = settings.origins[name]
        raise ConfigError(name, getattr(settings, name), allowed, "argument" if origin == DEFAULT else origin)


def _contradictions(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield the settings that contradict others, each with the rule that it breaks."""
    yield from _strategies(settings)
    pairs = [*_PAIRS, *(() if settings.venue == "demo" else _CASH)]
    for strategy in settings.strategy_names:
        for size in _SIZES.get(strategy, ("contracts",)):
            pairs += [_AtMost(size, limit, _NO_ORDER) for limit in _SIZE_LIMITS]
    for pair in pairs:
        value, limit = getattr(settings, pair.name), getattr(settings, pair.limit)
        if limit and (value > limit or (value == limit and not pair.equal)):
            yield (
                pair.name,
                f"{'at most' if pair.equal else 'less than'} {pair.limit} ({limit:,g}), {pair.why}",
            )
    if len(settings.tickers) > settings.max_markets:
        yield "max_markets", f"at least the number of tickers ({len(settings.tickers)}), {_NO_EFFECT}"
    yield from _budgets(settings)


def _strategies(settings: Settings) -> Iterator[tuple[str, str]]:
    names, origins = settings.strategies, settings.origins
    same = strength(origins["strategy"]) == strength(origins["strategies"])
    if names and same and origins["strategy"] != DEFAULT and settings.strategy not in names:
        yield "strategy", f"one of strategies ({', '.join(names)}) or not set"


def _budgets(settings: Settings) -> Iterator[tuple[str, str]]:
    for budget in settings.budgets:
        if budget.strategy not in settings.strategy_names:
            yield "budgets", f"limits of {', '.join(settings.strategy_names)}, the strategies that trade"
        for size in _SIZES.get(budget.strategy, ("contracts",)):
            smallest = getattr(settings, size)
            if budget.contracts is not None and budget.contracts < smallest:
                yield "budgets", f"at least {size} ({smallest:g}) for {budget.strategy}, {_NO_ORDER}"
        if budget.positions is not None and budget.positions > settings.max_concurrent:
            yield "budgets", f"at most max_concurrent ({settings.max_concurrent}) positions, {_NO_EFFECT}"
