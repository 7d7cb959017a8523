from . import shadow as shadow
from . import venue as venue
from .shadow import ShadowFeed as ShadowFeed
from .venue import FrameCount as FrameCount
from .venue import Lockstep as Lockstep
from .venue import VenueLink as VenueLink
from .venue import open_venue as open_venue
from .venue import read_frames as read_frames
