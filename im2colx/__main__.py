"""``python -m im2colx``."""

import sys

from im2colx.cli import main

sys.exit(main())
