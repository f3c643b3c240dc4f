"""The random programs of `test_dynamic_sizes.py` as Triton kernels: traced once, all sizes symbols, forward and backward."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from test_dynamic_sizes import CALLS, program
from tracefuse.backends.triton import launch
from tracefuse.frontend.compile import compile
from tracefuse.frontend.executables import BACKENDS

import tracefuse as tr

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
launch.enable_interpreter()
sys.path.insert(0, str(Path(__file__).parents[1] / "backends"))
from interpreted import Interpreted  # noqa: E402

SMALL = [(n, m) for n, m in CALLS if n * m < 200]
QUICK, PROGRAMS, LONG = 13, 30, (17, 19)  # seeds; what takes minutes in the interpreter is left out
SLOW = [pytest.param(k, marks=pytest.mark.slow) for k in range(PROGRAMS) if k not in (QUICK, *LONG)]


@pytest.fixture
def interpreted(monkeypatch) -> str:
    monkeypatch.setitem(BACKENDS, "interpreted", lambda graph, **how: Interpreted(graph))
    return "interpreted"


@pytest.mark.parametrize("seed", [QUICK, *SLOW])
def test_programs_at_many_sizes(seed, interpreted):
    names, f = program(seed)
    compiled = compile(f, fullgraph=True, backend=interpreted, dynamic=True)
    rng = np.random.default_rng(seed)
    for n, m in SMALL:
        x, y = (tr.tensor(rng.standard_normal((n, m)).astype(np.float32)) for _ in range(2))
        x.requires_grad_()
        found = []
        for g in (compiled, f):
            x.grad = None
            out, total = g(x, y)
            total.backward()
            found.append((out.detach().numpy(), x.grad.numpy()))
        for got, want in zip(*found):
            assert got.shape == want.shape and got.dtype == want.dtype, (names, n, m)
            scale = max(1.0, float(np.abs(want).max()))
            np.testing.assert_allclose(got, want, rtol=1e-3, atol=2e-4 * scale, err_msg=f"{names} {n, m}")
    assert compiled.cache_info()["eager"] == 0, names
