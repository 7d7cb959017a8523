from . import driver as driver
from . import exchange_clock as exchange_clock
from . import venue_requests as venue_requests
from . import view as view
from .driver import Driver as Driver
from .exchange_clock import ExchangeClock as ExchangeClock
from .venue_requests import VenueRequests as VenueRequests
