"""Tests import the tables beside them (`from cases import ...`)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
