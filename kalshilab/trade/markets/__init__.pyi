from . import market_follower as market_follower
from . import tracker as tracker
from .market_follower import CHANNELS as CHANNELS
from .market_follower import Follower as Follower
from .tracker import Tracked as Tracked
from .tracker import Tracker as Tracker
from .tracker import category_matches as category_matches
