"""Client of the exchange: hosts, signatures, wire format, REST and WebSocket feeds."""

from kalshilab.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
