"""The pure domain of the exchange: values, books, fees, lifecycle.  No input or output."""
