"""Random programs on tensors whose sizes change from call to call: compiled once with symbols, compared with eager."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import tracefuse.nn.functional as F
from tracefuse.frontend.compile import compile

import tracefuse as tr

PROGRAMS = 90
CHUNK = 15
CALLS = ((3, 4), (5, 6), (7, 3), (2, 9), (16, 17), (33, 5), (4, 4), (8, 2), (64, 40))

# each takes x [n, m] and y [n, m], and gives a matrix of any size with elements of moderate size
STEPS = {
    "tanh": lambda x, y: tr.tanh(x),
    "affine": lambda x, y: x * 0.5 - 0.25,
    "rows over count": lambda x, y: x / x.shape[0] + 1 / x.shape[1],
    "softmax": lambda x, y: F.softmax(x, -1),
    "softmax of columns": lambda x, y: F.softmax(x, 0),
    "layer norm": lambda x, y: (x - x.mean(axis=1, keepdims=True)) / (x.var(axis=1, keepdims=True) + 1.0) ** 0.5,
    "transpose": lambda x, y: x.T,
    "gram": lambda x, y: tr.tanh(x @ x.T / x.shape[1]),
    "gram of columns": lambda x, y: tr.tanh(x.T @ x),
    "twice": lambda x, y: tr.cat([x, x * 2], 0),
    "side by side": lambda x, y: tr.cat([x, tr.zeros(x.shape[0], 2)], 1),
    "pad": lambda x, y: F.pad(x, (1, 0, 0, 2)),
    "flip": lambda x, y: tr.flip(x, (0,)),
    "roll": lambda x, y: tr.roll(x, 1, 1),
    "half": lambda x, y: x[(x.shape[0] + 1) // 2 - 1 :],
    "but the first": lambda x, y: x[1:] if x.shape[0] > 2 else x,
    "every other": lambda x, y: x[:, ::2],
    "cumsum": lambda x, y: tr.tanh(tr.cumsum(x, 0)),
    "positions": lambda x, y: x + tr.arange(x.shape[1]) / x.shape[1],
    "causal": lambda x, y: tr.where(tr.arange(x.shape[0])[:, None] >= tr.arange(x.shape[1]), x, tr.zeros(())),
    "flatten": lambda x, y: x.reshape(1, -1) * 2,
    "column": lambda x, y: tr.tanh(x.reshape(-1, 1)),
    "outer": lambda x, y: x.mean(axis=1)[:, None] * x.mean(axis=0)[None],
    "windows": lambda x, y: F.avg_pool2d(x[None, None], 3, 1, 1)[0, 0],
    "last row": lambda x, y: x + x[-1],
    "gather": lambda x, y: x[tr.arange(x.shape[0] - 1, -1, -1)],
    "greatest": lambda x, y: x - x.max(axis=0),
    "with y": lambda x, y: x * y if x.shape == y.shape else x + y.mean(),
    "y below": lambda x, y: tr.cat([x, y], 0) if x.shape[1] == y.shape[1] else x,
    "y times": lambda x, y: tr.tanh(x @ y) if x.shape[1] == y.shape[0] else x,
}


def program(seed: int):
    random = Random(seed)
    names = [random.choice(list(STEPS)) for _ in range(random.randint(2, 7))]

    def f(x, y):
        for name in names:
            x = STEPS[name](x, y)
        return x, x.sum() + y.shape[0] * y.sum()

    return names, f


@pytest.mark.parametrize("first", range(0, PROGRAMS, CHUNK))
def test_programs_at_many_sizes(first):
    for seed in range(first, first + CHUNK):
        names, f = program(seed)
        compiled = compile(f, fullgraph=True)
        rng = np.random.default_rng(seed)
        for n, m in CALLS:
            x, y = (tr.tensor(rng.standard_normal((n, m)).astype(np.float32)) for _ in range(2))
            x.requires_grad_()
            found = []
            for g in (compiled, f, compiled):
                x.grad = None
                out, total = g(x, y)
                total.backward()
                with tr.no_grad():
                    inference = g(x.detach(), y)[0]
                found.append((out.detach().numpy(), inference.numpy(), x.grad.numpy()))
            for got, want in (*zip(found[0], found[1]), *zip(found[2], found[1])):
                assert got.shape == want.shape and got.dtype == want.dtype, (seed, names, n, m)
                scale = max(1.0, float(np.abs(want).max()))
                np.testing.assert_allclose(got, want, rtol=1e-3, atol=2e-4 * scale, err_msg=f"{seed} {names} {n, m}")
        assert compiled.cache_info()["eager"] == 0, names
