"""Trade data: one schema, conversion into it, and storage.

tape    = to_tape(frame)          # trades in any supported layout
markets = to_markets(frame)       # their markets
tape, markets = sample()          # bundled with the package
tape, markets = synth.martingale(n_markets=5000, seed=1)
"""

from kalshilab.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
