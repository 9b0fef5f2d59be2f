"""``python -m pipelines`` is ``visage``."""

import sys

from pipelines.cli import main

sys.exit(main())
