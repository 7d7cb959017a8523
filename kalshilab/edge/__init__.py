"""Is an edge real?  Entries one could have had, costs, audits for look-ahead, inference, multiplicity, a verdict."""
