from . import backtest as backtest
from . import simulated_venue as simulated_venue
from .backtest import BacktestReport as BacktestReport
from .simulated_venue import SimulatedVenue as SimulatedVenue
