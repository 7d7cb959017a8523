"""Signals: one compiled step over per-market state, and every driver calls it.

Each signal is a class (`Rlm(…)`) and a function (`rlm(tape, …)`).  Over a tape: `run`, or the function.  Over a
lake of any size, on many processors: `scan`.  At many settings: `grid`.  Live: `update` for one print, `batch` for arrays
of them, `feed` for frames.  All give the same fires, and none of them reads anything later than its print.

======================== ==================================================================================
`rlm`                    most takers buy YES and yet YES has fallen (and the mirror image)
`price_band`             a price comes into a band
`whale_fade`             against large YES buyers at little leverage
`whale_follow`           with large buyers of either outcome
`low_leverage_variance`  takers' leverage varies little and NO prevails (S013)
`steam`                  a run of takers of one outcome moves its price (EXT-002)
`burst`                  one side prevails among many prints of one second (S012)
`dollar_direction`       prints lean to YES more than dollars do (H-LSD-207)
`conviction_ratio`       NO takers buy more at a time (H-LSD-211)
`buy_back`               takers turned from YES to NO, and grew (EXT-005)
`rl_model`               a policy in Python says hold, buy or sell
`kalshilab.signal`       a step of one's own
======================== ==================================================================================

What each was claimed to earn, beside what is left of it: `kalshilab.edge.report.claims`.

Families of the published catalogue that are not here, and why:

* fractions of a market's life (S-LATE-001, "the final 25 % of trades"; H-MM150/153, "life above 24 h"): the end of a
  life is known when it has ended; as of a print there is no such fraction.
* properties of the final number of trades (Fibonacci, prime, palindromes: LSD-001/002, H126, WILD-001…010): the
  number so far has the property and loses it at the next print, so there is nothing that could fire.
* averages over all of a market's whale prints as entry (H121 as published): `whale_fade` enters at each one.
* correlations of size and side over the whole life (H-LSD-209) and stickiness (H-LSD-210): as of a print they are
  `conviction_ratio` and `rlm` with `flow="contracts"`, which the report found correlated with them.
* weekday, hour and category filters (S008, S009, H124): a filter on fires by their `ts` and `ticker`, not a signal.
"""

from kalshilab.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
