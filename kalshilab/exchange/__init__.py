"""An exchange in a box: Kalshi's protocol, fees and order rules over a recorded or made tape.

ex = Exchange(tape, markets, seed=0)
async with serve(ex, port=0) as venue:     # venue.rest, venue.ws, venue.key_id, venue.private_key_path
    ...
"""

from __future__ import annotations

from kalshilab.exchange.choices import Choices
from kalshilab.exchange.core import Exchange
from kalshilab.exchange.faults import FAULTS, Faults
from kalshilab.exchange.fills import FillModel
from kalshilab.exchange.mirror import Mirror
from kalshilab.exchange.server import Pace, Venue, serve
from kalshilab.exchange.synthetic import Synthetic

__all__ = [
    "FAULTS",
    "Choices",
    "Exchange",
    "Faults",
    "FillModel",
    "Mirror",
    "Pace",
    "Synthetic",
    "Venue",
    "serve",
]
