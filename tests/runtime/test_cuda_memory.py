"""Memory of GPUs, and of the host beside them: who may have which block when. Streams do nothing here until somebody waits
for them, so that a block that is handed out too early shows."""

from __future__ import annotations

import gc
import importlib.util
import threading
from collections.abc import Iterator

import numpy as np
import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from tracefuse.ir import dim, ops
from tracefuse.ir.dtypes import float32
from tracefuse.ir.graph import GraphBuilder
from tracefuse.ir.types import TensorType
from tracefuse.runtime.cuda import emulated, host
from tracefuse.runtime.cuda.array import empty, to_device, to_device_together
from tracefuse.runtime.cuda.device import Gpu, Stream, gpu
from tracefuse.runtime.cuda.dlpack import capsule, from_capsule
from tracefuse.runtime.cuda.driver import OutOfDeviceMemory
from tracefuse.runtime.cuda.eager import transferred
from tracefuse.runtime.cuda.emulated import EmulatedDevice
from tracefuse.runtime.cuda.executable import build

emulated.devices("interpret")  # so that Triton interprets


@pytest.fixture
def g(monkeypatch) -> Iterator[Gpu]:
    monkeypatch.setattr(emulated, "MEMORY", 64 << 20)
    device = EmulatedDevice(0)
    device.deferred = True
    yield Gpu(device)
    device.deferred = False


def other_stream(g: Gpu) -> Stream:
    return Stream(g, g.driver.new_stream())


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


# ---- blocks


def test_a_block_that_another_stream_uses_waits_for_it(g):
    block, other = g.pool.get(1000), other_stream(g)
    address = block.address
    g.driver.fill(address, 1, 1000, other.handle)
    block.record_stream(other)
    del block
    held = g.pool.get(1000)
    assert held.address != address
    other.synchronize()
    assert g.pool.get(1000).address == address


def test_a_block_that_only_its_own_stream_uses_is_handed_out_at_once(g):
    block = g.pool.get(1000)
    g.driver.fill(block.address, 1, 1000, g.stream.handle)
    address = block.address
    block.record_stream(g.stream)
    del block
    assert g.pool.get(1000).address == address


def test_streams_do_not_share_free_blocks(g):
    block, address = g.pool.get(1000), 0
    address = block.address
    del block
    g.stream = other_stream(g)
    assert g.pool.get(1000).address != address


def test_blocks_of_streams_that_are_gone_go_back_to_the_driver(g):
    main = g.stream
    for _ in range(10):
        g.stream = other_stream(g)
        g.driver.fill(g.pool.get(1000).address, 1, 1000, g.stream.handle)
        g.stream = main
        g.pool.get(1000)
    assert g.pool.stats().cached <= 3 * 1024 and len(g.driver._blocks) <= 3


def test_memory_that_is_kept_in_other_sizes_is_given_back_before_there_is_none(g):
    half = g.driver.properties.total_memory // 2
    del_me = g.pool.get(half)
    del del_me
    g.pool.get(half + (4 << 20))
    assert g.pool.stats().retries == 1


def test_a_process_may_have_a_part_of_the_memory(g):
    g.pool.set_fraction(0.5)
    half = g.driver.properties.total_memory // 2
    held = g.pool.get(half // 2, "activations")
    with pytest.raises(OutOfDeviceMemory, match=rf"this process may have {half:,}; .*activations {held.size:,}"):
        g.pool.get(half)
    del held
    assert g.pool.get(half - (4 << 20)).size > 0
    with pytest.raises(ValueError, match="between 0 and 1, not 1.5"):
        g.pool.set_fraction(1.5)


def test_who_holds_memory(g):
    a, b = g.pool.get(5000, "outputs"), g.pool.get(100_000, "temporaries")
    assert g.pool.by_tag() == [("temporaries", b.size), ("outputs", a.size)]
    lines = g.pool.summary().splitlines()
    assert lines[0].startswith("cuda:0") and any("temporaries" in line and f"{b.size:,}" in line for line in lines)
    total = a.size + b.size
    del a, b
    stats = g.pool.stats()
    assert (stats.in_use, stats.cached, stats.reserved, stats.peak) == (0, total, total, total)


def test_threads_and_garbage_collections(g):
    class Cycle:
        pass

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        held = []
        for _ in range(300):
            c = Cycle()
            c.me, c.block = c, g.pool.get(int(rng.integers(1, 1 << 16)))
            if rng.random() < 0.5:
                held.append(c.block)
            if len(held) > 10:
                held.clear()

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    gc.collect()
    stats = g.pool.stats()
    assert stats.in_use == 0 and stats.cached > 0
    g.pool.trim()
    assert g.pool.stats().cached == 0


# ---- arrays on several streams


@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_an_array_that_another_stream_reads_keeps_its_memory(g, cuda_graphs):
    """Though the program lets go of it, as soon as that stream has been told what to do."""
    builder = GraphBuilder("f")
    v = builder.input(TensorType(float32, (6, 50)), "x")
    with builder:
        out = ops.reduce_sum(ops.softmax(v, axis=1), axes=(0,))
    e = build(builder.finish([out]), g, cuda_graphs=cuda_graphs)
    x = normal(6, 50)
    want = (np.exp(x) / np.exp(x).sum(1, keepdims=True)).sum(0)
    for _ in range(3):
        a = to_device(g, x)
        g.synchronize()
        g.stream = other_stream(g)
        (y,) = e.run([a])
        z = a.copy()
        side, g.stream = g.stream, g.main_stream
        del a
        again = empty(g, (6, 50), np.dtype(np.float32))
        g.driver.fill(again.address, 0, again.nbytes, g.stream.handle)
        g.stream.synchronize()
        side.synchronize()
        np.testing.assert_allclose(y.numpy(), want, rtol=1e-4)
        np.testing.assert_array_equal(z.numpy(), x)


def test_borrowed_memory_may_be_read_on_another_stream():
    g = gpu(0)
    x = from_capsule(capsule(to_device(g, normal(50))))
    g.stream = other_stream(g)
    try:
        np.testing.assert_array_equal(ops.add(x, x).numpy(), 2 * normal(50))
    finally:
        g.stream = g.main_stream


# ---- plans


def test_what_a_call_takes_is_known_beforehand(g):
    n = dim.symbol("n", 1)
    builder = GraphBuilder("f")
    x = builder.input(TensorType(float32, (n, 64)), "x")
    with builder:
        out = ops.matmul(ops.softmax(ops.matmul(x, ops.permute(x, perm=(1, 0))), axis=1), x)
    e = build(builder.finish([out]), g)
    a = to_device(g, normal(40, 64))
    g.pool.reset_peak()
    before = g.pool.stats().in_use
    e.run([a])
    assert e.peak({"n": 40}) == g.pool.stats().peak - before > 40 * 64 * 4
    g.pool.limit = g.pool.stats().reserved
    g.pool.get(1)
    with pytest.raises(OutOfDeviceMemory, match=rf"f takes {e.peak({'n': 400}):,} bytes besides its inputs"):
        e.run([to_device_view(g, 400)])


def to_device_view(g: Gpu, n: int):
    """n rows that are one: they take no memory."""
    limit, g.pool.limit = g.pool.limit, None
    a = empty(g, (n, 64), np.dtype(np.float32))
    g.pool.limit = limit
    return a


def test_numbers_of_the_host_are_copied_together(g, monkeypatch):
    builder = GraphBuilder("f")
    x, *numbers = (builder.input(TensorType(float32, s), "") for s in ((5,), (), (), ()))
    with builder:
        out = x
        for number in numbers:
            out = ops.mul(out, number)
    e = build(builder.finish([out]), g)
    copies: list[int] = []
    copy_in = g.driver.copy_in
    monkeypatch.setattr(g.driver, "copy_in", lambda *a: (copies.append(a[2]), copy_in(*a)))
    a = to_device(g, normal(5))
    copies.clear()
    given = [np.asarray(k, np.float32) for k in (2.0, 3.0, 4.0)]
    (y,) = e.run([a, *given])
    for k in given:
        k[...] = 0.0
    np.testing.assert_allclose(y.numpy(), normal(5) * 24)
    assert len(copies) == 1


# ---- the host


@pytest.mark.parametrize("size", [100, host.STAGED])
def test_a_host_array_may_be_changed_at_once(g, size):
    x = normal(size)
    d = to_device(g, x)
    x[...] = 0
    np.testing.assert_array_equal(d.numpy(), normal(size))


def test_small_copies_do_not_wait_for_the_device(g):
    arrays = [to_device(g, normal(100)) for _ in range(5)]
    assert g.stream.handle.queue  # nothing has been done yet
    for a in arrays:
        np.testing.assert_array_equal(a.numpy(), normal(100))
    before = g.host.allocations
    for _ in range(20):
        to_device(g, normal(100)).numpy()
    assert g.host.allocations == before


def test_arrays_together_have_their_own_values(g):
    given = [normal(3), np.asarray(7, np.int64), np.zeros((0, 2), np.float32), np.asarray(True)]
    for a, b in zip(to_device_together(g, given), given, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype and a.address % host.ALIGN == 0
        np.testing.assert_array_equal(a.numpy(), b)


def test_pinned_arrays_are_copied_while_the_host_goes_on(g):
    size = host.STAGED
    x = host.pinned_empty(g, (2, size), np.dtype(np.float32))
    assert host.is_pinned(x) and host.is_pinned(x[1]) and not host.is_pinned(normal(3))
    x[...] = 3.0
    d = to_device(g, x[1], non_blocking=True)
    assert g.stream.handle.queue
    del x
    again = host.pinned_empty(g, (2, size), np.dtype(np.float32))  # not the same memory: that is still read
    again[...] = 0.0
    assert (d.numpy() == 3.0).all()


def test_pinned_memory_is_used_again(g):
    address = host.pinned_empty(g, (100,), np.dtype(np.float32)).ctypes.data
    assert host.pinned_empty(g, (100,), np.dtype(np.float32)).ctypes.data == address
    g.host.trim()
    assert not g.driver._host


def test_the_host_waits_when_too_much_is_on_its_way(g, monkeypatch):
    monkeypatch.setattr(host, "WAITING", 20_000)
    for _ in range(20):
        to_device(g, normal(1000))
    assert g.host.allocations <= 6


# ---- other devices


def test_copies_to_other_devices_do_not_pass_the_host(g, monkeypatch):
    device = EmulatedDevice(1)
    device.deferred = True
    other = Gpu(device)
    monkeypatch.setattr(g.driver, "copy_out", None)
    x = normal(50)
    a = to_device(g, x)
    b = transferred(a, other)
    address = a.address
    del a
    again = empty(g, (50,), np.dtype(np.float32))
    assert again.address == address
    g.driver.fill(again.address, 0, 200, g.stream.handle)
    g.synchronize()
    np.testing.assert_array_equal(b.numpy(), x)
