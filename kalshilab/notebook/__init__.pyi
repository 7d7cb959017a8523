from . import loop as loop
from . import research as research
from . import results as results
from . import runner as runner
from . import session as session
from .results import record as record
