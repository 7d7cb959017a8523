from . import envfile as envfile
from . import settings as settings
from .envfile import read_env_file as read_env_file
from .settings import RETIRED as RETIRED
from .settings import STRATEGIES as STRATEGIES
from .settings import VENUES as VENUES
from .settings import Secret as Secret
from .settings import Settings as Settings
