"""Trade data: one schema, and the ways into it.

tape    = to_tape(frame)          # trades in any known layout
markets = to_markets(frame)       # the markets beside them
tape, markets = sample()          # bundled
tape, markets = synth.martingale(n_markets=5000, seed=1)
"""

from kalshilab.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
