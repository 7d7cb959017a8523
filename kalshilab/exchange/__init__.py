"""A local exchange: Kalshi's protocol, fees and order rules over a recorded or synthetic tape.

ex = Exchange(tape, markets, seed=0)
async with serve(ex, port=0) as venue:     # venue.rest, venue.ws, venue.key_id, venue.private_key_path
    ...
"""

from kalshilab.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
