from . import tracker as tracker
from .tracker import Tracked as Tracked
from .tracker import Tracker as Tracker
from .tracker import category_matches as category_matches
