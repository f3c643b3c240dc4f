"""Lets the tests here import `runtime_helpers`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
