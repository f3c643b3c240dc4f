"""The driver for NVIDIA's devices, on a stand-in for NVIDIA's library."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import sys

import numpy as np
import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

import fake_cuda
from fake_cuda import ENUMS, HANDLES, FakeDriver, enums
from tracefuse.ir import ops
from tracefuse.ir.dtypes import float32
from tracefuse.ir.graph import GraphBuilder
from tracefuse.ir.types import TensorType
from tracefuse.runtime.cuda import code, compiling, nvidia
from tracefuse.runtime.cuda.array import to_device
from tracefuse.runtime.cuda.device import Event, Gpu, Stream
from tracefuse.runtime.cuda.driver import DeviceError, Driver, OutOfDeviceMemory
from tracefuse.runtime.cuda.eager import gpu_of
from tracefuse.runtime.cuda.emulated import EmulatedDevice
from tracefuse.runtime.cuda.executable import build


def install(monkeypatch: pytest.MonkeyPatch, driver: FakeDriver | None) -> None:
    """Makes `driver` NVIDIA's library; None: it is not installed."""
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", driver.module() if driver else None)


@pytest.fixture
def driver(monkeypatch) -> FakeDriver:
    """A machine with two GPUs, whose machine code is Triton's source."""
    found = FakeDriver((9, 0), (9, 0))
    install(monkeypatch, found)
    monkeypatch.setattr(compiling, "compile_images", lambda kernels, *_: [fake_cuda.image_of(k) for k in kernels])
    monkeypatch.setattr(code, "disk_cache", lambda target: NoCache())
    return found


class NoCache:
    def get(self, key: str) -> None:
        return None

    def put(self, key: str, data: bytes) -> None:
        pass


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def called(driver: FakeDriver, name: str) -> list[tuple]:
    return [arguments for n, arguments in driver.calls if n == name]


# ---- what can be missing


@pytest.mark.parametrize(
    "found, message",
    [
        (None, r"GPUs need NVIDIA's cuda-bindings: pip install 'tracefuse\[gpu\]'"),
        (
            FakeDriver((9, 0), version=11080),
            r"is for CUDA 11.8, tracefuse needs one for 12.0 or newer: install driver 525",
        ),
        (FakeDriver(), "there is no NVIDIA GPU"),
        (FakeDriver((7, 5)), r"Fake GPU has compute capability 7.5; tracefuse needs 8.0"),
    ],
)
def test_what_is_missing_is_said(monkeypatch, found, message):
    install(monkeypatch, found)
    with pytest.raises(DeviceError, match=message):
        nvidia.devices()


def test_no_driver_library(monkeypatch):
    found = FakeDriver()
    install(monkeypatch, found)
    module = sys.modules["cuda.bindings.driver"]

    def missing() -> tuple:
        raise RuntimeError('"cuda" is an NVIDIA driver library and can only be found via system search')

    monkeypatch.setattr(module, "cuDriverGetVersion", missing)
    with pytest.raises(DeviceError, match="there is no NVIDIA driver"):
        nvidia.devices()


@pytest.mark.skipif(importlib.util.find_spec("cuda") is None, reason="cuda-bindings is not installed")
def test_the_real_library_without_a_driver():
    import cuda.bindings.driver as real

    try:
        real.cuInit(0)
    except RuntimeError:
        with pytest.raises(DeviceError, match="there is no NVIDIA driver"):
            nvidia.devices()
    else:
        pytest.skip("there is a driver")


def test_no_device_as_the_driver_says_it(monkeypatch):
    found = FakeDriver()
    found.fail["cuInit"] = enums.CUresult.CUDA_ERROR_NO_DEVICE
    install(monkeypatch, found)
    with pytest.raises(DeviceError, match="there is no NVIDIA GPU"):
        nvidia.devices()


@pytest.mark.parametrize("version, message", [(None, "GPUs need Triton: pip"), ("3.5.1", "Triton 3.5.1 .* needs 3.6")])
def test_triton_is_missing_or_old(monkeypatch, version, message):
    def found(name: str) -> str:
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    install(monkeypatch, FakeDriver((9, 0)))
    monkeypatch.setattr(importlib.metadata, "version", found)
    with pytest.raises(DeviceError, match=message):
        nvidia.devices()


def test_old_devices_beside_new_ones_are_left_out(monkeypatch):
    install(monkeypatch, FakeDriver((7, 0), (8, 9)))
    (only,) = nvidia.devices()
    assert only.index == 0 and only.properties.capability == (8, 9)


# ---- the stand-in is like the real library


def parameters(function) -> list[str]:
    """Names of a function's parameters, as the first line of the real one's docstring has them."""
    inside = (function.__doc__ or "").splitlines()[0].partition("(")[2].rpartition(")")[0]
    return [p.split(":")[0].split("=")[0].split()[-1].lstrip("*") for p in inside.split(", ") if p]


@pytest.mark.skipif(importlib.util.find_spec("cuda") is None, reason="cuda-bindings is not installed")
def test_the_stand_in_is_like_the_real_library():
    import cuda.bindings.driver as real

    for name, function in inspect.getmembers(FakeDriver, inspect.isfunction):
        if name.startswith("cu"):
            mine = list(inspect.signature(function).parameters)[1:]
            assert parameters(getattr(real, name)) == mine, name
    for name, members in ENUMS.items():
        for member, value in members.items():
            assert getattr(getattr(real, name), member) == value
    assert real.CU_MEMHOSTALLOC_PORTABLE == 1
    assert all(isinstance(getattr(real, name)(1).__int__(), int) for name in HANDLES)


@pytest.mark.parametrize("kind", [nvidia.NvidiaDevice, EmulatedDevice])
def test_drivers_have_all_that_is_asked_of_them(kind):
    for name, function in inspect.getmembers(Driver, inspect.isfunction):
        if not name.startswith("_"):
            assert list(inspect.signature(getattr(kind, name)).parameters) == list(
                inspect.signature(function).parameters
            )


# ---- devices


def test_devices_use_their_primary_context_and_keep_released_memory(driver):
    first, second = nvidia.devices()
    assert (first.properties.name, first.properties.capability) == ("Fake GPU", (9, 0))
    assert [int(a[2]) for a in called(driver, "cuMemPoolSetAttribute")] == [2**64 - 1] * 2
    second.synchronize(second.new_stream())
    assert driver.contexts == [second.context]


def test_errors_have_the_name_and_text_of_the_driver(driver):
    device = nvidia.devices()[0]
    stream = device.new_stream()
    driver.fail["cuStreamSynchronize"] = enums.CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
    with pytest.raises(DeviceError, match="cuStreamSynchronize: CUDA_ERROR_ILLEGAL_ADDRESS: the text of"):
        device.synchronize(stream)
    driver.fail["cuCtxSetCurrent"] = enums.CUresult.CUDA_ERROR_NOT_INITIALIZED
    with pytest.raises(DeviceError, match="a process that was forked can't use"):
        device.synchronize(stream)


def test_functions_that_the_driver_lacks(driver, monkeypatch):
    device = nvidia.devices()[0]

    def cuStreamCreate(flags: int) -> tuple:
        raise RuntimeError("function cuStreamCreate is not found")

    monkeypatch.setattr(device.cuda, "cuStreamCreate", cuStreamCreate)
    with pytest.raises(
        DeviceError, match="cuStreamCreate is not found; the NVIDIA driver is too old for the installed"
    ):
        device.new_stream()


def test_memory_that_is_not_there(driver):
    gpu = Gpu(nvidia.devices()[0])
    with pytest.raises(OutOfDeviceMemory, match="cuda:0 is out of memory: 2,[0-9,]+ bytes were asked for"):
        gpu.pool.get(1 << 31)
    assert called(driver, "cuMemPoolTrimTo")


def test_devices_without_memory_pools(monkeypatch):
    found = FakeDriver((9, 0), pools=False)
    install(monkeypatch, found)
    device = nvidia.devices()[0]
    address = device.allocate(1000, device.new_stream())
    device.release(address, None)
    assert called(found, "cuMemAlloc") and not called(found, "cuMemAllocAsync") and not found.blocks


def test_releasing_leaves_the_context_of_the_thread_alone(driver):
    first, second = map(Gpu, nvidia.devices())
    event = Event(first)
    second.driver.enter()
    del event
    assert driver.contexts == [second.driver.context] and called(driver, "cuEventDestroy")


def test_arrays_events_and_streams(driver):
    gpu = Gpu(nvidia.devices()[0])
    x = normal(5, 7)
    d = to_device(gpu, x)
    start, end = Event(gpu, timing=True), Event(gpu, timing=True)
    other = Stream(gpu, gpu.driver.new_stream())
    gpu.stream.record(start)
    other.wait_stream(gpu.stream)
    gpu.stream.record(end)
    end.synchronize()
    assert end.is_done() and start.milliseconds_to(end) >= 0
    np.testing.assert_array_equal(d.copy().numpy(), x)
    assert gpu_of((d,)) is gpu


def test_an_event_that_is_not_done(driver):
    gpu = Gpu(nvidia.devices()[0])
    driver.fail["cuEventQuery"] = enums.CUresult.CUDA_ERROR_NOT_READY
    assert not Event(gpu).is_done()


# ---- kernels


def test_ops_and_graphs_of_ops(driver):
    gpu = Gpu(nvidia.devices()[0])
    x, w = normal(9, 33), normal(33, 20)
    np.testing.assert_allclose(ops.matmul(to_device(gpu, x), to_device(gpu, w)).numpy(), x @ w, rtol=1e-4, atol=1e-4)
    builder = GraphBuilder("f")
    v = builder.input(TensorType(float32, (9, 33)), "x")
    with builder:
        out = ops.softmax(v, axis=1)
    executable = build(builder.finish([out]), gpu)
    (y,) = executable.run([to_device(gpu, x)])
    np.testing.assert_allclose(y.numpy(), ops.softmax(x, axis=1), rtol=1e-5)
    assert executable.code_bytes > 0


def test_large_shared_memory_and_scratch(driver, monkeypatch):
    """Both have to be asked for: the first of the driver, the second is memory that a launch brings along."""
    monkeypatch.setattr(
        compiling, "compile_images", lambda kernels, *_: [fake_cuda.image_of(k, 128, 100 << 10) for k in kernels]
    )
    gpu = Gpu(nvidia.devices()[0])
    x = normal(9, 33)
    scratch = []
    run = driver._run

    def seen(kernel, grid, arguments):
        scratch.append(arguments[-2:])
        run(kernel, grid, arguments)

    monkeypatch.setattr(driver, "_run", seen)
    builder = GraphBuilder("f")
    v = builder.input(TensorType(float32, (9, 33)), "x")
    with builder:
        out = ops.exp(v)
    (y,) = build(builder.finish([out]), gpu).run([to_device(gpu, x)])
    np.testing.assert_allclose(y.numpy(), np.exp(x), rtol=1e-6)
    assert called(driver, "cuFuncSetAttribute")[0][2] == 100 << 10
    (global_scratch, profile_scratch) = scratch[-1]
    assert any(at <= global_scratch < at + b.size for at, b in driver.blocks.items()) and profile_scratch == 0


def test_code_that_nobody_needs_is_unloaded(driver, monkeypatch):
    """When nothing of it can be running: the device is waited for."""
    monkeypatch.setattr(nvidia, "UNLOADED", 2)
    gpu = Gpu(nvidia.devices()[0])
    for k in range(5):
        builder = GraphBuilder("f")
        v = builder.input(TensorType(float32, (9, 33 + k)), "x")
        with builder:
            out = ops.exp(v)
        build(builder.finish([out]), gpu).run([to_device(gpu, normal(9, 33 + k))])
    names = [name for name, _ in driver.calls if name in ("cuModuleLoadData", "cuModuleUnload", "cuCtxSynchronize")]
    load, unload = "cuModuleLoadData", ["cuCtxSynchronize", "cuModuleUnload", "cuModuleUnload"]
    assert names == [load, load, *unload, load, load, *unload, load]


def test_code_that_the_driver_does_not_take(driver):
    driver.fail["cuModuleLoadData"] = enums.CUresult.CUDA_ERROR_NO_BINARY_FOR_GPU
    gpu = Gpu(nvidia.devices()[0])
    with pytest.raises(DeviceError, match="can't be loaded, perhaps for want of a newer driver"):
        ops.exp(to_device(gpu, normal(3)))


def test_a_launch_that_fails_names_the_kernel(driver):
    gpu = Gpu(nvidia.devices()[0])
    x = to_device(gpu, normal(3))
    driver.fail["cuLaunchKernel"] = enums.CUresult.CUDA_ERROR_INVALID_VALUE
    with pytest.raises(DeviceError, match="cuLaunchKernel: CUDA_ERROR_INVALID_VALUE"):
        ops.exp(x)


def test_captured_work_is_done_when_it_is_replayed(driver):
    device = nvidia.devices()[0]
    stream = device.new_stream()
    a, b = device.allocate(512, stream), device.allocate(512, stream)
    x, y = np.arange(8.0), np.zeros(8)
    device.begin_capture(stream)
    device.copy(b, a, 64, stream)
    graph = device.end_capture(stream)
    device.copy_in(a, x.ctypes.data, 64, stream)
    device.replay(graph, stream)
    device.copy_out(y.ctypes.data, b, 64, stream)
    np.testing.assert_array_equal(y, x)
    device.release_graph(graph)
    assert called(driver, "cuGraphDestroy") and called(driver, "cuGraphExecDestroy")
