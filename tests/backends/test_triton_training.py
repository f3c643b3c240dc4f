"""Whole training steps as Triton kernels, through Triton's interpreter, beside the same steps by the reference."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tracefuse.backends.triton import launch
from tracefuse.frontend.executables import BACKENDS

import tracefuse as tr

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
launch.enable_interpreter()
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "benchmarks")]
from gpu_models import MODELS  # noqa: E402
from interpreted import Interpreted  # noqa: E402

STEPS = 3


@pytest.fixture
def interpreted(monkeypatch) -> str:
    monkeypatch.setitem(BACKENDS, "interpreted", lambda graph, **how: Interpreted(graph))
    return "interpreted"


def train(model: str, backend: str) -> list[np.ndarray]:
    """The losses of some steps, the gradients of arguments, and then all that the steps read: parameters, running
    statistics, the optimizer's state, with what it has become."""
    tr.manual_seed(0)
    step, args = MODELS[model](True)
    compiled: Any = tr.compile(step, fullgraph=True, backend=backend)
    found = []
    for _ in range(STEPS):
        loss = compiled(*args)
        found.append(loss.detach().numpy().copy())
        if loss.requires_grad:
            loss.backward()
            found.append(args[0].grad.numpy().copy())
    assert compiled.cache_info()["eager"] == 0
    return found + [np.array(s.fetch(list(args))) for s in compiled.traces[-1].sources]


@pytest.mark.parametrize("model", [pytest.param(m, marks=[pytest.mark.slow] * ("gpt2" in m)) for m in MODELS])
def test_training_steps(model, interpreted):
    tolerance = 0.05 if "bf16" in model else 2e-5
    got, want = train(model, interpreted), train(model, "reference")
    for k, (a, b) in enumerate(zip(got, want, strict=True)):
        assert a.dtype == b.dtype
        a, b = (x.astype(np.float64) for x in (a, b))
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max(initial=0), err_msg=f"{k}")
    assert want[0] != want[STEPS - 1] or model == "classes", "it learns"
