from . import book as book
from . import fee_schedule as fee_schedule
from . import fees as fees
from . import lifecycle as lifecycle
from . import model as model
from . import position as position
from .book import Book as Book
from .fee_schedule import FeeSchedule as FeeSchedule
