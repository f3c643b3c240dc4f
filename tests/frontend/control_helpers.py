"""What the tests of control flow share."""

import numpy as np

import tracefuse as tr


def both(f, *args, host: bool = False):
    """f(*args) eagerly, after checking that compiled code gives the same, natively."""
    compiled = tr.compile(f, fullgraph=True)
    want = f(*args)
    for _ in range(3):
        same(compiled(*args), want)
    assert host or not any(t.host_steps for t in tr.explain(compiled).traces)
    return want


def same(got, want):
    if isinstance(want, dict):
        assert got.keys() == want.keys()
        got, want = list(got.values()), list(want.values())
    if isinstance(want, (tuple, list)):
        assert type(got) is type(want) and len(got) == len(want)
        for g, w in zip(got, want):
            same(g, w)
        return
    if want is None:
        assert got is None
        return
    assert got.shape == want.shape and got.dtype is want.dtype
    np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=2e-5, atol=1e-5)


def numbers(*shape, seed: int = 0) -> tr.Tensor:
    return tr.tensor(np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32))
