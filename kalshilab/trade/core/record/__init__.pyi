from . import equity as equity
from . import history as history
from .equity import EquityCurve as EquityCurve
from .history import RunHistory as RunHistory
