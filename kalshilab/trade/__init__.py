"""The paper session: public trades in, journalled paper orders out, one known outcome for each intent."""

from kalshilab.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
