"""What a notebook sees: the dashboard of a session, static figures, recorded results, the papermill runner.

Only this package imports IPython, ipywidgets, plotly or papermill, and it imports nothing of its own when it
is imported.  `dashboard` watches a live session, `panels` turns a snapshot into HTML, `plots` draws what is
kept, `edge_plots` and `edge_view` show a report card, `loop` lets a cell without `await` run a coroutine.
"""
