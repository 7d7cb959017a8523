"""Trade data: one schema, and the ways into it.

tape    = to_tape(frame)          # trades in any known layout
markets = to_markets(frame)       # the markets beside them
tape, markets = sample()          # bundled
tape, markets = synth.martingale(n_markets=5000, seed=1)
"""

from __future__ import annotations

from kalshilab.tape import synth
from kalshilab.tape.normalise import DroppedRows, Report, to_markets, to_tape
from kalshilab.tape.sample import sample
from kalshilab.tape.schema import MARKETS_SCHEMA, TAPE_SCHEMA, check_markets, check_tape
from kalshilab.tape.sweeps import merge_sweeps

__all__ = [
    "MARKETS_SCHEMA",
    "TAPE_SCHEMA",
    "DroppedRows",
    "Report",
    "check_markets",
    "check_tape",
    "merge_sweeps",
    "sample",
    "synth",
    "to_markets",
    "to_tape",
]
