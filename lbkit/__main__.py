"""``python -m lbkit`` is the ``lbkit`` command."""

import sys

from lbkit.cli import main

sys.exit(main())
