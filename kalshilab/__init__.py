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

from kalshilab.lazy import exports, install

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = exports(__name__, __file__)
install()
