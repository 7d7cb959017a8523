"""kalshilab: from a trading idea on Kalshi's prediction markets, to an honest verdict, to paper orders.

    import kalshilab as kl

    tape, markets = kl.sample()                        # bundled, small, deterministic
    fires = kl.signals.rlm(tape, min_trades=25)        # research: a frame of fires
    card = kl.validate(kl.signals.Rlm(), tape, markets)          # a verdict that can be defended
    async with kl.PaperSession(kl.Settings()) as session:
        report = await session.run()                   # live: the same step, paper orders

Every name below is imported when it is first used, so that `import kalshilab` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_MODULES = (
    "clock",
    "config",
    "edge",
    "errors",
    "exchange",
    "kalshi",
    "market",
    "notebook",
    "signals",
    "tape",
    "trade",
    "units",
)

_HOMES = {
    "BookFeed": "kalshilab.kalshi.feeds",
    "DemoOrders": "kalshilab.kalshi.orders",
    "Exchange": "kalshilab.exchange.core",
    "FillFeed": "kalshilab.kalshi.feeds",
    "Fire": "kalshilab.signals",
    "LifecycleFeed": "kalshilab.kalshi.feeds",
    "MarketData": "kalshilab.kalshi.rest",
    "OrderFeed": "kalshilab.kalshi.feeds",
    "PaperSession": "kalshilab.trade.session",
    "PositionFeed": "kalshilab.kalshi.feeds",
    "Settings": "kalshilab.config",
    "SimClock": "kalshilab.clock",
    "TickerFeed": "kalshilab.kalshi.feeds",
    "TradeFeed": "kalshilab.kalshi.feeds",
    "WallClock": "kalshilab.clock",
    "audit": "kalshilab.edge.audit",
    "cents": "kalshilab.units",
    "contracts": "kalshilab.units",
    "dollars": "kalshilab.units",
    "fees": "kalshilab.market.fees",
    "paper_entries": "kalshilab.trade.paper",
    "record": "kalshilab.notebook.results",
    "sample": "kalshilab.tape",
    "scan_tape": "kalshilab.tape",
    "sequential": "kalshilab.edge.sequential",
    "serve": "kalshilab.exchange.server",
    "signal": "kalshilab.signals.custom",
    "synth": "kalshilab.tape.synth",
    "to_markets": "kalshilab.tape",
    "to_tape": "kalshilab.tape",
    "validate": "kalshilab.edge.validation",
}
"""Where each public name lives; a name equal to its module's last part is the module itself."""

__all__ = [
    "BookFeed",
    "DemoOrders",
    "Exchange",
    "FillFeed",
    "Fire",
    "LifecycleFeed",
    "MarketData",
    "OrderFeed",
    "PaperSession",
    "PositionFeed",
    "Settings",
    "SimClock",
    "TickerFeed",
    "TradeFeed",
    "WallClock",
    "__version__",
    "audit",
    "cents",
    "clock",
    "config",
    "contracts",
    "dollars",
    "edge",
    "errors",
    "exchange",
    "fees",
    "kalshi",
    "market",
    "notebook",
    "paper_entries",
    "record",
    "sample",
    "scan_tape",
    "sequential",
    "serve",
    "signal",
    "signals",
    "synth",
    "tape",
    "to_markets",
    "to_tape",
    "trade",
    "units",
    "validate",
]

if TYPE_CHECKING:
    from kalshilab import (
        clock,
        config,
        edge,
        errors,
        exchange,
        kalshi,
        market,
        notebook,
        signals,
        tape,
        trade,
        units,
    )
    from kalshilab.clock import SimClock, WallClock
    from kalshilab.config import Settings
    from kalshilab.edge import audit, sequential, validate
    from kalshilab.exchange.core import Exchange
    from kalshilab.exchange.server import serve
    from kalshilab.kalshi.feeds import (
        BookFeed,
        FillFeed,
        LifecycleFeed,
        OrderFeed,
        PositionFeed,
        TickerFeed,
        TradeFeed,
    )
    from kalshilab.kalshi.orders import DemoOrders
    from kalshilab.kalshi.rest import MarketData
    from kalshilab.market import fees
    from kalshilab.notebook.results import record
    from kalshilab.signals import Fire, signal
    from kalshilab.tape import sample, scan_tape, synth, to_markets, to_tape
    from kalshilab.trade.paper import paper_entries
    from kalshilab.trade.session import PaperSession
    from kalshilab.units import cents, contracts, dollars


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"kalshilab.{name}")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'kalshilab' has no attribute {name!r}")
    module = importlib.import_module(home)
    value = module if home.endswith(f".{name}") else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
