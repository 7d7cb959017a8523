"""Rules of a trader: the settings that its core obeys, in integer units."""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from kalshilab.config.settings import Settings
from kalshilab.signals import Fire
from kalshilab.trade.core.exposure import RiskRules
from kalshilab.trade.events import CLIENT_PREFIX

__all__ = ["TraderRules", "order_key", "run_prefix"]


class TraderRules(msgspec.Struct, frozen=True, kw_only=True):
    """Rules of a trader; durations in microseconds, monotonic time except where exchange time is named.

    Attributes:
        risk: the limits of the session.
        books: "stream": the driver streams the books that are watched; "ask": it answers each `Watch` with one snapshot.
        categories: categories to admit, or ("all",).
        tickers: if not empty, only these markets are admitted, of any category.
        max_markets: active markets at once.
        close_min_us: markets that close within this exchange time are not admitted; 0: no such limit.
        discovery: whether open markets are listed over REST.
        discovery_us: time between two listings.
        sync_us: time between two reconciliations of the account.
        attempts_per_minute: orders per minute of exchange time for each strategy, refilled evenly.
        cleanup: whether resting orders of an earlier life of the run are cancelled at the start.
        max_outage_us: time for which an outage of the venue is waited out; None: without limit.
        order_life_us: exchange time after which an order expires unless the session renews it; None: never.
        group_contracts: limit of the exchange-side order group in contracts; 0: no group.
    """

    risk: RiskRules
    books: Literal["stream", "ask"] = "stream"
    categories: tuple[str, ...] = ("all",)
    tickers: tuple[str, ...] = ()
    max_markets: int = 1000
    close_min_us: int = 0
    discovery: bool = True
    discovery_us: int = 300_000_000
    sync_us: int = 30_000_000
    attempts_per_minute: float = 10.0
    cleanup: bool = True
    max_outage_us: int | None = None
    order_life_us: int | None = None
    group_contracts: int = 0

    @classmethod
    def of(cls, settings: Settings, books: Literal["stream", "ask"] = "stream") -> TraderRules:
        """Return the rules that the settings give.

        >>> rules = TraderRules.of(Settings(env={}, env_file=None, sync_interval_s=30))
        >>> rules.sync_us, rules.books
        (30000000, 'stream')
        """
        return cls(
            risk=RiskRules.of(settings),
            books=books,
            categories=settings.categories,
            tickers=settings.tickers,
            max_markets=settings.max_markets,
            close_min_us=round(settings.close_min_minutes * 60e6),
            discovery=settings.discovery,
            discovery_us=round(settings.discovery_interval_s * 1e6),
            sync_us=round(settings.sync_interval_s * 1e6),
            attempts_per_minute=settings.attempts_per_minute,
            cleanup=settings.cleanup_on_startup,
        )


def run_prefix(run_id: str) -> str:
    """Return the prefix of the client order ids of a run: only orders with it are the run's.

    >>> run_prefix("run-1")
    'kl-2e2cda26-'
    """
    return f"{CLIENT_PREFIX}{hashlib.blake2b(run_id.encode(), digest_size=4).hexdigest()}-"


def order_key(prefix: str, strategy: str, fire: Fire, attempt: int = 0) -> str:
    """Return the client order id of a fire; the same run, strategy, fire and attempt always give the same id.

    A restarted session can therefore match an intent in its journal with the order at the exchange, and the exchange
    refuses a second copy of the order as a duplicate.

    Args:
        prefix: the run's prefix, as `run_prefix` returns it.
        strategy: the name of the strategy.
        fire: the fire.
        attempt: the number of earlier attempts that certainly had no effect.
    """
    text = f"{strategy}|{fire.ticker}|{fire.ts}|{fire.n_trades}|{fire.price}|{attempt}"
    return prefix + hashlib.blake2b(text.encode(), digest_size=10).hexdigest()
