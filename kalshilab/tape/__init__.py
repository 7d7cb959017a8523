"""Trade data: one schema, and the ways into it.

tape    = to_tape(frame)          # trades in any known layout
markets = to_markets(frame)       # the markets beside them
tape, markets = sample()          # bundled
tape, markets = synth.martingale(n_markets=5000, seed=1)
"""

from __future__ import annotations

from kalshilab.tape import synth
from kalshilab.tape.checkup import Finding, Gap, doctor, repair
from kalshilab.tape.commit import Appended
from kalshilab.tape.lake import Lake, scan_tape
from kalshilab.tape.manifest import DayFile
from kalshilab.tape.normalise import DroppedRows, Report, to_markets, to_tape
from kalshilab.tape.sample import sample
from kalshilab.tape.schema import MARKETS_SCHEMA, TAPE_SCHEMA, check_markets, check_tape
from kalshilab.tape.sweeps import merge_sweeps
from kalshilab.tape.tapefile import TapeFile

__all__ = [
    "MARKETS_SCHEMA",
    "TAPE_SCHEMA",
    "Appended",
    "DayFile",
    "DroppedRows",
    "Finding",
    "Gap",
    "Lake",
    "Report",
    "TapeFile",
    "check_markets",
    "check_tape",
    "doctor",
    "merge_sweeps",
    "repair",
    "sample",
    "scan_tape",
    "synth",
    "to_markets",
    "to_tape",
]
