"""Signals: one compiled step over per-market state, called by every driver.

Each signal is a class (`Rlm(…)`) and a function (`rlm(tape, …)`).  Over a tape, use `run` or the function; over a lake
of any size, on many processors, `scan`; at many settings, `grid`.  Live, use `update` for one print, `batch` for arrays
of prints and `feed` for frames.  All produce the same fires, and a signal never uses data later than the print that
triggered it.

======================== ==================================================================================
`rlm`                    most takers buy YES but YES has fallen (and the mirror image)
`price_band`             a price enters a band
`whale_fade`             against large YES buyers at low leverage
`whale_follow`           with large buyers of either outcome
`low_leverage_variance`  takers' leverage varies little and NO prevails (S013)
`steam`                  a run of takers of one outcome moves its price (EXT-002)
`burst`                  one side prevails among many prints of one second (S012)
`dollar_direction`       prints lean to YES more than dollars do (H-LSD-207)
`conviction_ratio`       NO takers buy more at a time (H-LSD-211)
`buy_back`               takers turned from YES to NO and grew larger (EXT-005)
`rl_model`               a policy in Python returns hold, buy or sell
`kalshilab.signal`       a custom step
======================== ==================================================================================

`kalshilab.edge.report.claims` compares the claimed edge of each with the audited one.

Families of the published catalogue that are left out, and the reasons:

* Fractions of a market's life (S-LATE-001, "the final 25 % of trades"; H-MM150/153, "life above 24 h"): the length of
  a life is known only at its end, so the fraction is undefined as of a print.
* Properties of the final number of trades (Fibonacci, prime, palindromes: LSD-001/002, H126, WILD-001…010): the
  running number gains and loses the property from print to print, so a fire cannot depend on the final one.
* Averages over all of a market's whale prints as entry (H121 as published): `whale_fade` enters at each one.
* Correlations of size and side over the whole life (H-LSD-209) and stickiness (H-LSD-210): as of a print they are
  `conviction_ratio` and `rlm` with `flow="contracts"`, which the report found correlated with them.
* Weekday, hour and category filters (S008, S009, H124): filter fires by their `ts` and `ticker` instead.
"""

from kalshilab.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
