"""Lets the tests here import `generator`, `moves`, `checks` and `shrink`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
