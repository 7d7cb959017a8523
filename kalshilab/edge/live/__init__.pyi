from .monitor import STATES as STATES
from .monitor import Cusum as Cusum
from .monitor import LiveState as LiveState
from .monitor import ReplayGap as ReplayGap
from .monitor import State as State
from .monitor import monitor as monitor
from .monitor import replay_gap as replay_gap
