from . import journal as journal
from . import journal_survey as journal_survey
from .journal import KINDS as KINDS
from .journal import Entry as Entry
from .journal import Journal as Journal
