"""Wire format of the exchange, field for field, in its current form.

`rest` has the bodies of REST calls, `stream` the WebSocket messages.  Field names are the exchange's.  Quantities are
its strings ("0.4300", "7.50") and become our integers in `to_model`.  The client decodes with these structs and the
local exchange encodes with them, so the two cannot diverge.  Unknown fields are ignored and absent optional fields are
omitted, because the exchange adds fields without notice.
"""

from kalshilab.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
