"""Notebook support: live dashboards, figures, report cards, recorded results and unattended runs.

This is the only package that imports IPython, ipywidgets, plotly and papermill; it imports each on first use.

* `session`: the live dashboard (`dashboard`), its panels as HTML (`panels`) and the figures of a finished run (`plots`);
* `research`: report cards as HTML (`card_html`), their figures (`figures`, `heatmap`, `compare`, `layout`), and tables of
  results and published claims (`tables`);
* `results`: numbers that a notebook records (`record`) and other programs read back (`read_results`);
* `runner`: papermill runs of the live notebook (`LiveRun`, `live_notebook`);
* `loop`: coroutines in cells without `await` (`run_sync`, `enable_sync`).
"""

from kalshilab.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
