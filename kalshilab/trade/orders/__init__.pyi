from . import journal as journal
from .journal import KINDS as KINDS
from .journal import Entry as Entry
from .journal import Journal as Journal
