"""Is an edge real? Attainable entries with costs, look-ahead audits, inference, multiplicity and a verdict.

    card = kl.validate(kl.signals.Rlm(), tape, markets, claim=17.38)  # of it +0.43 is left, after the fee

returns a report card. Its parts can be used alone:

================ =============================================================================================
entries          `EntryTerms`, `enter` (buy at fires), `measure` (average the profits), `censoring`, `book_taker`,
                 `maker`
look-ahead       `audit`; `whole_life` is the forbidden method, for comparison
inference        `infer` (clustered, four ways, the largest p-value), `martingale`, `power`
comparison       `excess` over a pool of entries at the same prices (`price_matching`)
multiplicity     `Registry`, `hypothesis_of`, `Lockbox`, `multiplicity`
robustness       `robustness.perturbations` (few events, one month, one setting, latency), `walk_forward`
verdict          `judge` (entries alone), `Card`, `criteria`
live             `sequential`, `monitor`, `replay_gap`
sizing           `allocation`, `capacity`
simulation       `simulated_entries`: entries whose true edge is known
claims           `claims`: published edges beside their audited values
================ =============================================================================================
"""

from kalshilab.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
