"""How many small dynamic programs there are, by group."""

import importlib.util
from pathlib import Path

HERE = Path(__file__).parent
LISTS = {  # of functions of one tensor, and of stateful programs
    "control flow": [("test_control_flow.py", "BRANCHES"), ("test_control_flow.py", "NUMBERS")],
    "loops": [("test_loops.py", "CLOSED"), ("test_loops.py", "OPEN")],
    "sizes": [("test_sizes.py", "VECTOR_PROGRAMS")],
    "mutation": [("test_mutation.py", "program")],
    "aliasing": [("test_aliasing.py", "program")],
    "randomness": [("test_randomness.py", "program")],
    "exceptions": [("test_exceptions.py", "program")],
    "Python features": [(f"test_{name}.py", "program") for name in ("language", "objects", "text", "modules")],
    "guards": [("test_guards.py", "program")],
}


def load(name):
    spec = importlib.util.spec_from_file_location(f"counted_{name[:-3]}", HERE / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_group_has_its_programs():
    counts = {group: sum(len(getattr(load(f), listed)) for f, listed in lists) for group, lists in LISTS.items()}
    assert min(counts.values()) >= 10 and sum(counts.values()) >= 200, counts
