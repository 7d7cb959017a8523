"""Is an edge real?  Entries one could have had, costs, audits for look-ahead, inference, multiplicity, a verdict.

    card = kl.validate(kl.signals.Rlm(), tape, markets, claim=17.38)  # of it +0.43 is left, after the fee

makes a report card; the parts it is made of can be used alone:

================ =============================================================================================
entries          `enter` (what could be bought of fires), `measure` (what it earned), `cohort`, `quotes`, `maker`
look-ahead       `audit`; `whole_life` is the forbidden method, for comparison
inference        `infer` (clustered, four ways, the most careful p), `martingale`, `power`
comparison       `excess` over a pool at the same prices (`baseline`)
multiplicity     `Registry`, `hypothesis_of`, `Lockbox`, `multiplicity`, `walk`
robustness       `robustness`: one event, one month, one setting, one second
live             `sequential`, `monitor`, `replay_gap`
size             `sizing`, `capacity`
worlds           `worlds`: made entries of which the truth is known
claims           `claims`: what was published, beside what an audit left of it
================ =============================================================================================
"""

from kalshilab.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
