"""Tensors on GPUs, on a device that Triton's interpreter emulates: the same results as on the CPU, and where they lie."""

from __future__ import annotations

import copy
import importlib.util
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import tracefuse as tr
from tracefuse import nn, optim

sys.path.insert(0, str(Path(__file__).parents[1] / "gpu"))  # pytest's importlib mode leaves test folders off the path
from op_samples import OPS, check_op

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)


def numbers(*shape, dtype=np.float32):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


def both(*shape, **options):
    """The same numbers on the CPU and on the GPU."""
    x = tr.tensor(numbers(*shape), **options)
    return x, tr.tensor(numbers(*shape), device="cuda", **options)


def close(got, want, tolerance=1e-5):
    assert got.is_cuda and got.dtype is want.dtype
    np.testing.assert_allclose(got.detach().cpu().numpy(), want.detach().numpy(), rtol=tolerance, atol=tolerance)


# ------------------------------------------------------------------ devices


def test_devices_are_their_names():
    d = tr.device("cuda")
    assert d == "cuda:0" and (d.type, d.index) == ("cuda", 0) and tr.device("cpu").index is None
    assert tr.device(1) == tr.device("cuda", 1) == tr.device("cuda:1")
    assert tr.cuda.is_available() and tr.cuda.device_count() == 2 and tr.cuda.why_not() == ""
    with pytest.raises(ValueError, match="no device 'tpu'"):
        tr.device("tpu")
    with pytest.raises(tr.cuda.DeviceError, match="there is no cuda:5"):
        tr.device("cuda:5")


@pytest.mark.parametrize("without", ["driver", "triton"])
def test_without_a_gpu_everything_else_works_and_one_sentence_says_why(without):
    hidden = "import sys; sys.modules['triton'] = None\n" if without == "triton" else ""
    setting = "interpret" if without == "triton" else ""
    code = f"""{hidden}
import tracefuse as tr
assert not any(m.partition('.')[0] == 'triton' and sys.modules[m] for m in list(__import__('sys').modules))
assert float(tr.compile(lambda x: x * 2)(tr.ones(()))) == 2
assert not tr.cuda.is_available() and len(tr.cuda.why_not().splitlines()) == 1, tr.cuda.why_not()
try:
    tr.ones(3, device="cuda")
except RuntimeError as e:
    print("said:", e)
"""
    import os

    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRACEFUSE_CUDA": setting}
    done = subprocess.run([sys.executable, "-c", "import sys\n" + code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("said:") and len(done.stdout.splitlines()) == 1


def test_there_and_back():
    x = tr.tensor(numbers(3, 4))
    y = x.to("cuda")
    assert y.device == "cuda:0" and y.to("cuda:0") is y and y.cuda() is y and x.cpu() is x
    assert y.to("cpu", tr.float64).dtype is tr.float64 and y.to(tr.float16).is_cuda
    assert y.to(x).device == "cpu" and y.to("cuda:1").device == "cuda:1"
    np.testing.assert_array_equal(y.to("cuda:1").cpu().numpy(), x.numpy())
    assert pickle.loads(pickle.dumps(y)).device == "cuda:0" and copy.deepcopy(y).is_cuda
    with pytest.raises(TypeError, match=r"\.cpu\(\)"):
        y.numpy()


def test_creation():
    assert (
        tr.zeros(3, device="cuda").device == "cuda:0" and tr.ones_like(tr.zeros(3, device="cuda:1")).device == "cuda:1"
    )
    with tr.device("cuda:1"):
        assert tr.arange(4).device == "cuda:1" and tr.rand(3).device == "cuda:1"
        assert tr.zeros(2, device="cpu").device == "cpu"
    assert tr.arange(4).device == "cpu"
    made = tr.linspace(0, 1, 5, device="cuda"), tr.eye(3, device="cuda"), tr.full((2, 2), 7, device="cuda")
    for got, want in zip(made, (tr.linspace(0, 1, 5), tr.eye(3), tr.full((2, 2), 7))):
        close(got, want)


def test_random_numbers_are_the_same_bits_on_every_device():
    for draw in (tr.rand, tr.randn):
        tr.manual_seed(3)
        want = draw(5, 7)
        tr.manual_seed(3)
        np.testing.assert_array_equal(draw(5, 7, device="cuda").cpu().numpy(), want.numpy())


def test_printing_says_where():
    assert "device='cuda:0'" in repr(tr.ones(2, device="cuda")) and "device" not in repr(tr.ones(2))


# ------------------------------------------------------------------ eager


@pytest.mark.parametrize("name", OPS[::9])
def test_some_ops(name):
    check_op(name, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPS)
def test_every_op(name):
    check_op(name)


def test_views_and_writes():
    x, y = both(4, 6)
    for t in (x, y):
        t[1:3, ::2] = 5.0
        t.T[0] += 1.0
        t[:, 3].mul_(2.0)
        t[tr.asarray(np.array([0, 3]), device=t.device)] -= 1.0
        t[t > 2] = 0.0
    close(y, x)
    assert y[1:].storage_offset() == 6 and y.T.stride() == (1, 6)
    assert y.view(2, 12).is_contiguous() and not y.T.is_contiguous()
    close(y.T.contiguous(), x.T)
    x.copy_(y)
    y.copy_(x * 2)
    close(y, x * 2)


def test_values_come_to_python():
    y = tr.tensor([3.0], device="cuda")
    assert y.item() == 3.0 and float(y) == 3.0 and bool(y > 2) and y.tolist() == [3.0]
    assert [float(v) for v in tr.arange(3, device="cuda")] == [0.0, 1.0, 2.0]


def test_sizes_that_depend_on_values():
    x, y = both(5, 4)
    close(y[y > 0], x[x > 0])
    for got, want in zip(tr.nonzero(y > 0), tr.nonzero(x > 0)):
        close(got, want)
    close(tr.unique_values((y * 2).astype(tr.int64)), tr.unique_values((x * 2).astype(tr.int64)))


def test_gradients_and_higher_ones():
    x, y = both(3, 4, requires_grad=True)
    for t in (x, y):
        (g,) = tr.autograd.grad((t.sin() * t).sum(), t, create_graph=True)
        g.sum().backward()
    close(y.grad, x.grad)


def test_gradients_go_between_devices():
    x = tr.tensor(numbers(3), requires_grad=True)
    (x.to("cuda") * tr.arange(3.0, device="cuda")).sum().backward()
    assert x.grad.device == "cpu"
    np.testing.assert_array_equal(x.grad.numpy(), [0, 1, 2])


def test_large_operands_on_the_cpu_are_worth_a_warning():
    large, small = tr.zeros(20_000), tr.zeros(())
    y = tr.zeros(20_000, device="cuda")
    with pytest.warns(UserWarning, match="is on the CPU and is copied to cuda:0") as found:
        assert (y + large).is_cuda
    assert found[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (y + small).is_cuda
    with pytest.raises(tr.cuda.DeviceError, match="cuda:0 and cuda:1"):
        y + tr.zeros(20_000, device="cuda:1")


# ------------------------------------------------------------------ modules, optimizers, compiled functions


def nets():
    """(module, input) of several kinds."""
    tr.manual_seed(0)
    yield nn.Sequential(nn.Linear(5, 8), nn.GELU(), nn.Dropout(0.4), nn.LayerNorm(8), nn.Linear(8, 3)), (4, 5)
    yield (
        nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        (2, 2, 4, 4),
    )
    yield nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True), (2, 3, 8)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("k", range(3))
def test_training_steps_are_those_of_the_cpu(k, compiled):
    net, shape = list(nets())[k]
    twin = copy.deepcopy(net).to("cuda")
    losses = []
    for module, device in ((net, "cpu"), (twin, "cuda")):
        opt = (optim.AdamW if k == 0 else optim.SGD)(module.parameters(), lr=1e-2)  # Adam enlarges rounding errors

        def step(x, module=module, opt=opt):
            loss = (module(x) ** 2).mean()
            loss.backward()
            opt.step()
            opt.zero_grad()
            return loss

        run = tr.compile(step, fullgraph=True) if compiled else step
        tr.manual_seed(7)
        losses.append([run(tr.tensor(numbers(*shape), device=device)) for _ in range(2)])
        assert all(loss.device.type == device for loss in losses[-1])
    np.testing.assert_allclose([x.item() for x in losses[1]], [x.item() for x in losses[0]], rtol=1e-5)
    for a, b in zip(twin.parameters(), net.parameters()):
        close(a, b, 1e-4)


def test_optimizers_follow_their_parameters():
    net = nn.Linear(3, 2)
    opt = optim.Adam(net.parameters())
    net.to("cuda")
    net(tr.ones(1, 3, device="cuda")).sum().backward()
    opt.step()
    assert opt.state[net.weight]["exp_avg"].is_cuda
    saved = opt.state_dict()
    other = optim.Adam(nn.Linear(3, 2).parameters())
    other.load_state_dict(saved)
    assert net.state_dict()["weight"].is_cuda and net.cpu().weight.device == "cpu"


def test_compiled_functions_have_a_trace_for_each_device():
    f = tr.compile(lambda x: (x * 2).sum(), fullgraph=True)
    for device in ("cpu", "cuda:0", "cuda:1", "cpu", "cuda:0"):
        assert f(tr.ones(3, device=device)).device == device
    assert len(f.traces) == 3


def test_python_steers_by_values_on_the_gpu():
    def solve(x):
        while (x @ x).sum() > 1e-3:
            x = x * 0.5 if x[0] > 0 else x * 0.25
        return x

    compiled = tr.compile(solve, fullgraph=True)
    for sign in (1.0, -1.0):
        close(compiled(tr.full((4,), sign, device="cuda")), solve(tr.full((4,), sign)))


def test_a_compiled_forward_with_an_eager_loss():
    net = nn.Linear(4, 3, device="cuda")
    forward = tr.compile(net)
    x = tr.ones(2, 4, device="cuda")
    forward(x).sum().backward()
    close(net.weight.grad, tr.full((3, 4), 2.0))


def test_a_trace_does_not_leave_its_device():
    with pytest.raises(tr.CaptureError, match="a copy from cuda:0 to the CPU"):
        tr.compile(lambda x: x.cpu() + 1, fullgraph=True)(tr.ones(3, device="cuda"))
    two = tr.ones(3, device="cuda"), tr.ones(3, device="cuda:1")
    with pytest.raises(tr.CaptureError, match="cuda:0 and cuda:1"):
        tr.compile(lambda x, y: (x + 1, y + 1), fullgraph=True)(*two)


def test_exported_programs_run_where_their_arguments_lie(tmp_path):
    net = nn.Linear(4, 3, device="cuda")
    x = tr.ones(2, 4, device="cuda")
    program = tr.export(net, (x,))
    program.save(tmp_path / "net.tfx")
    again = tr.load(tmp_path / "net.tfx")
    close(again(x), net(x).cpu())
    assert again(x.cpu()).device == "cpu"


def test_saved_tensors_are_loaded_into_host_memory(tmp_path):
    net = nn.Linear(4, 3, device="cuda")
    tr.save(net.state_dict(), tmp_path / "net.safetensors")
    loaded = tr.load(tmp_path / "net.safetensors")
    assert loaded["weight"].device == "cpu"
    other = nn.Linear(4, 3, device="cuda")
    other.load_state_dict(loaded)
    close(other.weight, net.weight.cpu())


def test_autocast_lowers_products():
    x = tr.ones(2, 3, device="cuda")
    with tr.autocast("cuda", dtype=tr.bfloat16):
        assert (x @ x.T).dtype is tr.bfloat16 and tr.is_autocast_enabled("cuda")
    assert tr.get_autocast_dtype("cuda") is tr.float16


# ------------------------------------------------------------------ exchange


def test_dlpack_shares_memory():
    y = tr.tensor(numbers(3, 4), device="cuda")

    class Other:  # another library's array
        def __dlpack_device__(self):
            return y.T.__dlpack_device__()

        def __dlpack__(self, *, stream):
            return y.T.__dlpack__(stream=stream)

    z = tr.from_dlpack(Other())
    assert z.device == "cuda:0" and z.shape == (4, 3) and z.data_ptr() == y.data_ptr()
    z[0, 1] = 9.0
    assert y[1, 0].item() == 9.0
    assert tr.from_dlpack(Other(), copy=True).data_ptr() != y.data_ptr()
    capsule = y.__dlpack__(stream=-1)
    with pytest.raises(BufferError, match="cuda:0"):
        y.__dlpack__(dl_device=(1, 0))
    del capsule
    interface = y.__cuda_array_interface__
    assert interface["data"] == (y.data_ptr(), False) and interface["shape"] == (3, 4) and interface["strides"] is None


def test_memory_of_others_is_given_back_once():
    from tracefuse.runtime.cuda import dlpack

    y = tr.ones(3, device="cuda")
    z = tr.from_dlpack(
        type("Other", (), {"__dlpack__": lambda s, stream: y.__dlpack__(), "__dlpack_device__": lambda s: (2, 0)})()
    )
    assert len(dlpack._lent) == 1
    view = z[1:]
    del z
    assert len(dlpack._lent) == 1
    del view
    assert not dlpack._lent


# ------------------------------------------------------------------ streams and memory


def test_streams_and_events():
    s, start, end = tr.cuda.Stream(), tr.cuda.Event(enable_timing=True), tr.cuda.Event(enable_timing=True)
    x = tr.ones(3, device="cuda")
    with tr.cuda.stream(s):
        assert tr.cuda.current_stream() is s
        s.wait_stream(tr.cuda.default_stream())
        start.record()
        y = x + 1
        end.record()
    assert tr.cuda.current_stream() is tr.cuda.default_stream()
    tr.cuda.synchronize()
    assert end.query() and start.elapsed_time(end) >= 0
    close(y, tr.full((3,), 2.0))


def test_memory_is_counted():
    tr.cuda.reset_peak_memory_stats("cuda:1")
    before = tr.cuda.memory_allocated("cuda:1")
    x = tr.ones(1 << 16, device="cuda:1")
    assert tr.cuda.memory_allocated("cuda:1") - before == x.nbytes
    assert tr.cuda.max_memory_allocated("cuda:1") >= before + x.nbytes
    del x
    assert tr.cuda.memory_allocated("cuda:1") == before and tr.cuda.memory_reserved("cuda:1") >= 1 << 18
    tr.cuda.empty_cache("cuda:1")
    with pytest.raises(tr.cuda.OutOfMemoryError, match="is out of memory"):
        tr.zeros(1 << 34, device="cuda:1")
    with pytest.raises(MemoryError):
        tr.zeros(1 << 34, device="cuda:1")


def test_tf32_has_to_be_asked_for():
    from tracefuse.frontend.introspect import native_of

    f = tr.compile(lambda x: x @ x, fullgraph=True)
    x = tr.ones(64, 64, device="cuda")
    try:
        f(x)
        tr.set_float32_matmul_precision("high")
        f(x)
    finally:
        tr.set_float32_matmul_precision("highest")
    steps = [native_of(t.executable).plan.kernel_steps[0] for t in f.traces]
    assert [s.schedule.precision for s in steps] == ["tf32x3", "tf32"]
    with pytest.raises(ValueError, match="highest, high, medium"):
        tr.set_float32_matmul_precision("low")


def test_settings_of_results_and_replays():
    assert tr.are_deterministic_algorithms_enabled()

    def f(x, at):
        return tr.zeros(8, 4, device="cuda").index_add(0, at, x)

    compiled = tr.compile(f, fullgraph=True)
    x, at = tr.ones(6, 4, device="cuda"), tr.asarray(np.array([1, 2, 1, 7, 1, 2]), device="cuda")
    try:
        want = compiled(x, at).cpu()
        tr.use_deterministic_algorithms(False)
        close(compiled(x, at), want)
        close(f(x, at), want)
    finally:
        tr.use_deterministic_algorithms(True)
    assert len(compiled.traces) == 2
    g = tr.compile(lambda x: (x * 2).softmax(-1).sum(0), fullgraph=True, options={"cuda_graphs": True})
    results = [g(x * k) for k in range(1, 5)]
    for k, result in enumerate(results, 1):
        close(result, (x.cpu() * k * 2).softmax(-1).sum(0))
    with pytest.raises(TypeError, match="True, False or None"):
        tr.compile(f, options={"cuda_graphs": 3})
