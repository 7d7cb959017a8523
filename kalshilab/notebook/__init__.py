"""What a notebook sees: the dashboard of a session, static figures, recorded results, the papermill runner.

Only this package imports IPython, ipywidgets, plotly or papermill, and it imports nothing of its own when it
is imported.  `dashboard` watches a live session, `panels` turns a snapshot into HTML, `plots` draws what is
kept, `edge_plots`, `edge_beside` and `edge_view` show report cards, `tables` shows a frame whole and a published
claim beside its audit, `loop` lets a cell without `await` run a coroutine.
"""

from kalshilab.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
