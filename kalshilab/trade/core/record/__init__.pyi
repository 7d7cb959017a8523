from . import equity as equity
from . import history as history
from . import retention as retention
from . import settlement_watch as settlement_watch
from .equity import EquityCurve as EquityCurve
from .history import RunHistory as RunHistory
from .retention import Retention as Retention
from .settlement_watch import SettlementWatch as SettlementWatch
