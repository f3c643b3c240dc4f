"""The runtime for GPUs, on a device that Triton's interpreter emulates."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from tracefuse.ir import ops
from tracefuse.ir.op import bind, get_op
from tracefuse.runtime.cuda.array import DeviceArray, share_memory, to_device
from tracefuse.runtime.cuda.device import gpu, gpu_count
from tracefuse.runtime.cuda.driver import DeviceError, OutOfDeviceMemory


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def test_devices_by_number():
    assert gpu_count() == 2 and gpu(1).name == "cuda:1"
    with pytest.raises(DeviceError, match="there is no cuda:2: this process sees 2"):
        gpu(2)


def test_arrays_come_and_go():
    x = normal(5, 7)
    d = to_device(gpu(0), x)
    assert type(d) is DeviceArray and d.shape == (5, 7) and d.dtype == np.float32
    np.testing.assert_array_equal(d.numpy(), x)
    with pytest.raises(TypeError, match="copy it to the host first"):
        np.asarray(d)


@pytest.mark.parametrize(
    "op, attrs",
    [
        ("slice", {"start": (1, 2), "stop": (5, 7), "step": (2, 2)}),
        ("permute", {"perm": (1, 0)}),
        ("reshape", {"shape": (7, 5)}),
        ("broadcast_to", {"shape": (3, 5, 7)}),
    ],
)
def test_views_share_memory(op, attrs):
    x = normal(5, 7)
    d = to_device(gpu(0), x)
    v = bind(get_op(op), (d,), attrs)
    assert v.block is d.block and share_memory(v, d)
    np.testing.assert_array_equal(v.numpy(), get_op(op).reference(x, **attrs))


def test_writing_through_a_view():
    x = normal(5, 7)
    d = to_device(gpu(0), x)
    bind(get_op("permute"), (d,), {"perm": (1, 0)})[...] = normal(7, 5)
    np.testing.assert_array_equal(d.numpy(), normal(7, 5).T)


def test_ops_run_at_once_for_sizes_of_any_kind():
    for n in (5, 9):
        x, w = normal(n, 7), normal(7, n)
        d = to_device(gpu(0), x)
        np.testing.assert_allclose(ops.matmul(d, to_device(gpu(0), w)).numpy(), x @ w, rtol=1e-5, atol=1e-5)
        total = ops.reduce_sum(ops.mul(d, d), axes=(1,))
        np.testing.assert_allclose(total.numpy(), (x * x).sum(1), rtol=1e-5)


def test_operands_on_different_devices():
    x, y = to_device(gpu(0), normal(3)), to_device(gpu(1), normal(3))
    with pytest.raises(DeviceError, match="cuda:0 and cuda:1"):
        ops.add(x, y)


def test_freed_memory_is_used_again():
    g = gpu(1)
    a = to_device(g, normal(1000))
    before, address = g.pool.stats(), a.address
    del a
    assert to_device(g, normal(1000)).address == address
    assert g.pool.stats().allocations == before.allocations


def test_memory_that_is_not_there():
    with pytest.raises(OutOfDeviceMemory, match="tensors of this process hold"):
        gpu(1).pool.get(1 << 40)


def test_small_state_of_the_host_is_advanced_there(monkeypatch):
    """So that a training step with dropout and an optimizer does not wait for the device."""
    import tracefuse as tr
    from tracefuse import nn, optim

    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).to("cuda")
    opt = optim.Adam(net.parameters())

    @tr.compile(fullgraph=True)
    def step(x):
        loss = net(x).sum()
        loss.backward()
        opt.step()
        opt.zero_grad()
        return loss

    x = tr.ones(2, 4, device="cuda")
    step(x)
    seen = []
    monkeypatch.setattr(type(gpu(0).driver), "synchronize", lambda self, stream: seen.append(stream))
    before = tr.get_rng_state().tolist()
    step(x)
    assert not seen
    assert tr.get_rng_state().tolist()[1] > before[1] and opt.state[net[0].weight]["step"] == 2.0
