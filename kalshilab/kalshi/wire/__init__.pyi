from . import account as account
from . import base as base
from . import candles as candles
from . import orders as orders
from . import public as public
from . import rest as rest
from . import stream as stream
