"""Blocks come back, are used again, and stay within their limit."""

import gc
import os
import threading

import numpy as np
import pytest
from tracefuse.runtime import memory


@pytest.fixture(autouse=True)
def fresh():
    gc.collect()
    memory.trim()
    before = memory.stats().in_use
    yield
    gc.collect()
    assert memory.stats().in_use == before


@pytest.mark.parametrize("shape", [(), (0,), (3,), (0, 1 << 20), (1024, 1024), (3, 5, 70_001)])
@pytest.mark.parametrize("dtype", ["f4", "i1", "f8"])
def test_arrays_are_what_was_asked_for(shape, dtype):
    a = memory.empty(shape, dtype)
    assert a.shape == shape and a.dtype == dtype and a.flags.c_contiguous and a.flags.writeable
    a[...] = 7
    assert (a == 7).all()
    if a.nbytes >= memory.BIG:
        assert a.ctypes.data % 64 == 0


def test_ml_dtypes():
    import ml_dtypes

    a = memory.empty((1 << 20,), ml_dtypes.bfloat16)
    a[:] = 1.5
    assert a.dtype == ml_dtypes.bfloat16 and float(a[-1]) == 1.5


def test_memory_is_used_again():
    a = memory.empty((1 << 20,), "f4")
    where = a.ctypes.data
    del a
    b = memory.empty((1 << 20,), "f4")
    assert b.ctypes.data == where


def test_a_view_keeps_it():
    a = memory.empty((1 << 20,), "f4")
    a[:] = 1
    view = a[5:10].reshape(5, 1).T
    del a
    other = memory.empty((1 << 20,), "f4")
    other[:] = 2
    assert (view == 1).all()


def test_arrays_in_use_do_not_overlap():
    arrays = [memory.empty((300_000 + 1000 * k,), "u1") for k in range(20)]
    for k, a in enumerate(arrays):
        a[:] = k
    assert all((a == k).all() for k, a in enumerate(arrays))


def test_the_limit_holds():
    was = memory.set_limit(3 << 20)
    try:
        arrays = [memory.empty((1 << 20,), "u1") for _ in range(10)]
        arrays.clear()
        assert memory.stats().cached <= 3 << 20
        assert memory.stats().released >= 7
    finally:
        memory.set_limit(was)
    with pytest.raises(ValueError):
        memory.set_limit(-1)


def test_trim():
    del_me = memory.empty((1 << 22,), "u1")
    del del_me
    assert memory.stats().cached > 0
    memory.trim()
    assert memory.stats().cached == 0


def test_size_classes_waste_little():
    last = 0
    for n in [1, 65_536, 65_537, 100_000, *(1 << k for k in range(17, 40)), *((1 << k) + 1 for k in range(17, 40))]:
        size = memory.size_class(n)
        assert size >= n and (size <= n * 1.126 or size == memory.SMALLEST) and size % 4096 == 0
    for n in range(60_000, 600_000, 777):
        size = memory.size_class(n)
        assert size >= last
        last = size


def test_too_much_is_a_memory_error():
    with pytest.raises(MemoryError):
        memory.empty((1 << 55,), "u1")


def test_leases():
    with memory.lease(100_000) as one, memory.lease(100_000) as two:
        assert one.address != two.address and one.size >= 100_000 and one.address % 64 == 0
        first = {one.address, two.address}
    created = memory.stats().created
    for _ in range(100):
        with memory.lease(100_000) as again:
            assert again.address in first
    assert memory.stats().created == created
    again.release()


def test_threads():
    errors: list[BaseException] = []

    def work(k: int) -> None:
        try:
            for i in range(200):
                a = memory.empty((300_000 + 5000 * (i % 3),), "u1")
                a[::4096] = k
                with memory.lease(70_000):
                    assert (a[::4096] == k).all()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors


def test_garbage_cycles_give_back():
    a = memory.empty((1 << 20,), "u1")
    cycle: list = [a]
    cycle.append(cycle)
    del a, cycle
    gc.collect()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_goes_on():
    kept = memory.empty((1 << 20,), "u1")
    kept[:] = 5
    memory._cache._lock.acquire()  # as if another thread were in the middle of something
    pid = os.fork()
    if pid == 0:
        ok = (kept == 5).all()
        a = memory.empty((1 << 20,), "u1")
        a[:] = 1
        os._exit(0 if ok and (kept == 5).all() else 1)
    memory._cache._lock.release()
    assert os.waitpid(pid, 0)[1] == 0
    assert np.all(kept == 5)
