"""The dynamic programs again, on a GPU that Triton's interpreter emulates: compiled whole there, with the results of plain
Python there."""

import copy
import importlib.util
import sys
from pathlib import Path

import pytest

import tracefuse as tr

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves test folders off the path
import harness

HERE = Path(__file__).parent
if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)


def load(name):
    spec = importlib.util.spec_from_file_location(f"gpu_{name[:-3]}", HERE / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LISTS = {
    "test_control_flow.py": (("BRANCHES", "SIGNS"), ("NUMBERS", "SIGNS")),
    "test_loops.py": (("CLOSED", "STARTS"), ("OPEN", "STARTS")),
    "test_sizes.py": (("VECTOR_PROGRAMS", "VECTORS"),),
}
PROGRAMS = [
    pytest.param(program, getattr(module, calls), id=program.__name__)
    for name, lists in LISTS.items()
    for module in (load(name),)
    for programs, calls in lists
    for program in getattr(module, programs)
]


def check(program, calls):
    """On the first few inputs; what raises for one of them raises for both."""
    with tr.device("cuda"):
        moved = [tuple(x.to("cuda") if isinstance(x, tr.Tensor) else copy.copy(x) for x in args) for args in calls[:4]]
        harness.compare(program, moved, rounds=1, raises=True)


@pytest.mark.parametrize("program, calls", PROGRAMS[::20])
def test_some_programs(program, calls):
    check(program, calls)


@pytest.mark.slow
@pytest.mark.parametrize("program, calls", PROGRAMS)
def test_every_program(program, calls):
    check(program, calls)
