"""Random programs as Triton kernels, through Triton's interpreter, against the reference: as they are, with symbols for
their sizes, and in blocks of other sizes. Most of them are of the style that fuses; `pytest -m slow -n 2` runs many."""

from __future__ import annotations

import importlib.util
from collections import Counter

import numpy as np
import pytest
from generator import FUSED, PLAIN, Program, generate
from shrink import failure, report
from symbolic import symbolic
from tracefuse.backends.triton import launch
from tracefuse.ir.interpreter import run

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
launch.enable_interpreter()
from triton_checks import CHECKS, Fusion  # noqa: E402

QUICK, MANY, CHUNK = 45, 1200, 15


def assert_holds(p: Program) -> None:
    for name, check in CHECKS.items():
        if failure(check, p):
            pytest.fail(report(p, check, f"triton {name}"), pytrace=False)


def programs(first: int, count: int):
    """One in four is a plain one."""
    return (generate(seed, PLAIN if seed % 4 == 0 else FUSED) for seed in range(first, first + count))


@pytest.mark.parametrize("first", range(0, QUICK, CHUNK))
def test_programs(first):
    for p in programs(first, CHUNK):
        assert_holds(p)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(QUICK, QUICK + MANY, CHUNK))
def test_many_programs(first):
    for p in programs(first, CHUNK):
        assert_holds(p)


def test_most_programs_fuse_and_are_compared():
    """Enough of the programs are well determined, not too long for the interpreter, and also compiled with symbols."""
    seeds = list(programs(0, 100))
    fusions = [Fusion.of(p) for p in seeds]
    assert sum(f.fused for f in fusions) >= 60
    computing = Counter(min(n, 12) for f in fusions for n in f.computing)
    assert sum(n * count for n, count in computing.items()) >= 2.5 * computing.total(), sorted(computing.items())
    assert sum(max(f.computing, default=0) >= 8 for f in fusions) >= 20
    names = {n.op.name for p in seeds for n in p.graph.nodes}
    wanted = "reduce_sum argmax matmul conv gather scatter where cumsum random_bits cast broadcast_to softmax"
    assert names >= set(wanted.split())
    assert {v.dtype.name for p in seeds for v in p.graph.values()} >= {
        "float16",
        "bfloat16",
        "float64",
        "int32",
        "bool",
    }
    assert {0, 1} <= {n for p in seeds for v in p.graph.values() for n in v.shape}
    assert any(n >= 4100 for p in seeds for v in p.graph.values() for n in v.shape if isinstance(n, int))


def test_programs_with_symbols_compute_the_same():
    graphs = [(p, symbolic(p)) for p in programs(0, 40)]
    found = [(p, g) for p, g in graphs if g is not None]
    assert len(found) >= 25 and all(g.dims() for _, g in found)
    for p, g in found:
        with np.errstate(all="ignore"):
            for got, want in zip(run(g, p.inputs), run(p.graph, p.inputs), strict=True):
                assert got.shape == want.shape and got.tobytes() == want.tobytes(), f"{g}"
