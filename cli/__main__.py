"""``python -m planish.cli``."""

import sys

from . import main

sys.exit(main())
