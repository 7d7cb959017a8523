from . import backtest as backtest
from . import simulated_venue as simulated_venue
from .backtest import BacktestReport as BacktestReport
from .backtest import grid_table as grid_table
from .simulated_venue import SimulatedVenue as SimulatedVenue
