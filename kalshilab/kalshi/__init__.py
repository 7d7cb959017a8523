"""The exchange seen from a client: hosts, signatures, messages, REST calls and feeds."""

from kalshilab.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
