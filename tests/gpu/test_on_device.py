"""On a real GPU: every op, training steps, dynamic programs, memory, streams, CUDA graphs, exchange with PyTorch and CuPy."""

from __future__ import annotations

import copy
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import tracefuse.nn.functional as F

import tracefuse as tr
from tracefuse import nn, optim

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves test folders off the path
from op_samples import OPS, check_op

PROGRAMS = Path(__file__).parents[1] / "programs"


def close(got, want, tolerance=1e-4):
    got, want = np.asarray(got.detach().cpu()), np.asarray(want.detach().cpu())
    assert got.dtype == want.dtype and got.shape == want.shape
    np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", OPS)
def test_every_op(name):
    check_op(name)


def models():
    tr.manual_seed(0)
    yield nn.Sequential(nn.Linear(65, 130), nn.GELU(), nn.Dropout(0.4), nn.LayerNorm(130), nn.Linear(130, 10)), (33, 65)
    yield (
        nn.Sequential(nn.Conv2d(3, 20, 3, padding=1), nn.BatchNorm2d(20), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        (5, 3, 14, 14),
    )
    yield nn.TransformerEncoderLayer(96, 4, 200, dropout=0.1, batch_first=True), (3, 70, 96)
    yield nn.LSTM(17, 33, 2, batch_first=True), (4, 9, 17)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("k", range(4))
def test_training_steps_are_those_of_the_cpu(k, compiled):
    net, shape = list(models())[k]
    twin = copy.deepcopy(net).to("cuda")
    losses = []
    for module, device in ((net, "cpu"), (twin, "cuda")):
        opt = optim.SGD(module.parameters(), lr=1e-2, momentum=0.9)

        def step(x, module=module, opt=opt):
            out = module(x)
            loss = ((out[0] if isinstance(out, tuple) else out) ** 2).mean()
            loss.backward()
            opt.step()
            opt.zero_grad()
            return loss

        run = tr.compile(step, fullgraph=True) if compiled else step
        tr.manual_seed(7)
        x = tr.asarray(np.random.default_rng(0).standard_normal(shape).astype(np.float32), device=device)
        losses.append([run(x).item() for _ in range(6)])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)
    for a, b in zip(twin.parameters(), net.parameters()):
        close(a, b, 1e-3)


def test_random_numbers_are_the_bits_of_the_cpu():
    tr.manual_seed(3)
    want = tr.rand(1000), tr.randn(1000)
    tr.manual_seed(3)
    got = tr.rand(1000, device="cuda"), tr.randn(1000, device="cuda")
    np.testing.assert_array_equal(got[0].cpu().numpy(), want[0].numpy())
    close(got[1], want[1], 1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
@pytest.mark.parametrize(
    "m, n, k", [(1, 1, 1), (17, 33, 65), (128, 256, 512), (1, 1000, 1000), (1000, 3, 77), (513, 511, 1025)]
)
def test_products_of_all_shapes(m, n, k, dtype):
    rng = np.random.default_rng(m + n + k)
    a, b = (tr.asarray(rng.standard_normal(s).astype(np.float32)).to(getattr(tr, dtype)) for s in ((m, k), (k, n)))
    want = a.to(tr.float64) @ b.to(tr.float64)
    tolerance = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2, "float64": 1e-12}[dtype] * max(1, k**0.5)
    for f in (lambda a, b: a @ b, tr.compile(lambda a, b: a @ b, fullgraph=True)):
        got = f(a.cuda(), b.cuda())
        assert got.dtype is a.dtype
        close(got.to(tr.float64), want, tolerance)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 64, 64), (1, 2, 100, 80), (2, 2, 333, 128), (1, 1, 1, 16)])
def test_attention_and_its_gradients(shape, causal):
    rng = np.random.default_rng(sum(shape))
    numbers = [rng.standard_normal(shape).astype(np.float32) for _ in range(4)]

    def both(q, k, v, w):
        out = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        (out * w).sum().backward()
        return out

    sides = []
    for device in ("cpu", "cuda"):
        q, k, v = (tr.tensor(x, device=device, requires_grad=True) for x in numbers[:3])
        out = tr.compile(both, fullgraph=True)(q, k, v, tr.tensor(numbers[3], device=device))
        sides.append((out, q.grad, k.grad, v.grad))
    for got, want in zip(sides[1], sides[0]):
        close(got, want, 2e-4)


def programs():
    sys.path.insert(0, str(PROGRAMS))
    spec = importlib.util.spec_from_file_location("programs_on_gpu", PROGRAMS / "test_on_gpu.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("k", range(len(programs().PROGRAMS)))
def test_dynamic_programs(k):
    module = programs()
    module.check(*module.PROGRAMS[k].values)


def test_replays_of_cuda_graphs_leave_earlier_results_alone():
    net = nn.Sequential(*(nn.Linear(32, 32) for _ in range(8))).to("cuda")
    f = tr.compile(lambda x: net(x), fullgraph=True, options={"cuda_graphs": True})
    with tr.no_grad():
        xs = [tr.randn(1, 32, device="cuda") for _ in range(12)]
        got = [f(x) for x in xs]
        for g, x in zip(got, xs):
            close(g, net(x))


def test_streams_run_beside_each_other_and_wait_when_told():
    s = tr.cuda.Stream()
    x = tr.ones(1 << 20, device="cuda")
    for _ in range(20):
        with tr.cuda.stream(s):
            s.wait_stream(tr.cuda.default_stream())
            y = x * 2 + 1
        tr.cuda.default_stream().wait_stream(s)
        x = y * 0.5
    assert abs(float(x[0]) - 11.0) < 1e-4


def test_memory_comes_back():
    tr.cuda.synchronize()
    before = tr.cuda.memory_allocated()
    for _ in range(50):
        x = tr.ones(1 << 22, device="cuda")
        x = (x * 2).sum()
    del x
    assert tr.cuda.memory_allocated() == before
    with pytest.raises(tr.cuda.OutOfMemoryError, match="is out of memory"):
        tr.zeros(1 << 42, device="cuda")


def test_pytorch_shares_memory():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no GPU")
    x = tr.arange(12.0, device="cuda").reshape(3, 4)
    t = torch.from_dlpack(x)
    t += 1
    torch.cuda.synchronize()
    close(x, tr.arange(1.0, 13.0).reshape(3, 4))
    y = tr.from_dlpack(torch.ones(5, device="cuda", dtype=torch.bfloat16))
    assert y.is_cuda and y.dtype is tr.bfloat16 and float((y * 2).sum()) == 10.0


def test_cupy_shares_memory():
    cupy = pytest.importorskip("cupy")
    x = tr.arange(6.0, device="cuda")
    cupy.from_dlpack(x)[:] = 7
    cupy.cuda.Device().synchronize()
    assert x.cpu().tolist() == [7.0] * 6
