"""The exchange's messages, field for field, in today's form.

`rest` holds the bodies of REST calls, `stream` the WebSocket messages.  Field names are the exchange's own;
quantities are its strings ("0.4300", "7.50") and turn into our integers in `to_model`.  The client decodes
with these structs and the local exchange encodes with them, so that neither can drift from the other.
Unknown fields are ignored, absent optional ones omitted: the exchange adds fields without notice.
"""

from kalshilab.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
