"""The pool does every task once, whoever calls it, however many threads there are."""

import ctypes
import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import runtime_helpers as kernels
from tracefuse.runtime import threads

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the pool is sequential here")


@pytest.fixture(autouse=True)
def restore():
    before = threads.get_num_threads()
    yield
    threads.set_num_threads(before)


def region(name="regions"):
    code = kernels.build(kernels.counting_text(), tuple(threads.pool_symbols().items()))
    p, n = ctypes.c_void_p, ctypes.c_int64
    call = kernels.prototype(None, p, p, n, n, n)(code.address(name))

    def run(counts, n=1, tasks=None, grain=1, who=None):
        call(
            counts.ctypes.data,
            who.ctypes.data if who is not None else None,
            n,
            counts.size if tasks is None else tasks,
            grain,
        )

    return run


@pytest.mark.parametrize("count", [1, 2, 3, 7, 16])
@pytest.mark.parametrize("tasks", [0, 1, 2, 3, 8, 63, 64, 65, 1000, 12_345])
def test_every_task_is_done_once(count, tasks):
    threads.set_num_threads(count)
    done = np.zeros(tasks, np.int32)
    region()(done, n=50)
    assert (done == 50).all()


@pytest.mark.parametrize("grain", [-1, 0, 1, 5, 64, 999, 1000, 1 << 40])
def test_any_grain(grain):
    threads.set_num_threads(4)
    done = np.zeros(1000, np.int32)
    region()(done, grain=grain)
    assert (done == 1).all()


def test_thread_numbers_stay_below_the_limit():
    threads.set_num_threads(5)
    done, who = np.zeros(10_000, np.int32), np.full(10_000, -1)
    region()(done, n=200, who=who)
    assert who.min() >= 0 and who.max() < 5


def test_small_work_stays_with_the_caller():
    threads.set_num_threads(4)
    done, who = np.zeros(100, np.int32), np.full(100, -1)
    region()(done, grain=100, who=who)
    assert (who == 0).all()


def test_one_thread_is_the_caller():
    threads.set_num_threads(1)
    done, who = np.zeros(1000, np.int32), np.full(1000, -1)
    region()(done, who=who)
    assert (who == 0).all()


def test_a_region_in_a_region():
    threads.set_num_threads(4)
    done = np.zeros(100 * 64, np.int32)
    region("nested")(done, n=20, tasks=64)
    assert (done == 20).all()


def test_callers_at_the_same_time():
    threads.set_num_threads(3)
    run = region()
    counts = [np.zeros(777, np.int32) for _ in range(6)]
    callers = [threading.Thread(target=run, args=(c, 3000)) for c in counts]
    for t in callers:
        t.start()
    for t in callers:
        t.join()
    assert all((c == 3000).all() for c in counts)


def test_the_number_changes_while_others_run():
    run, stop = region(), threading.Event()
    counts = [np.zeros(500, np.int32) for _ in range(2)]
    rounds = [0, 0]

    def work(k):
        while not stop.is_set():
            run(counts[k], 100)
            rounds[k] += 100

    callers = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for t in callers:
        t.start()
    for i in range(300):
        threads.set_num_threads(1 + i % threads.max_threads())
    stop.set()
    for t in callers:
        t.join()
    assert all((c == r).all() for c, r in zip(counts, rounds))


def test_workers_are_not_more_than_asked_for():
    threads.set_num_threads(threads.max_threads())
    region()(np.zeros(1000, np.int32))
    assert threads.started_workers() <= threads.max_threads() - 1


@pytest.mark.parametrize("wrong", [0, -1, 10_000])
def test_impossible_numbers(wrong):
    with pytest.raises(ValueError, match="set_num_threads"):
        threads.set_num_threads(wrong)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_has_its_own_pool():
    threads.set_num_threads(4)
    run = region()
    run(np.zeros(1000, np.int32), 100)
    stop = threading.Event()
    busy = threading.Thread(target=lambda: [run(np.zeros(5000, np.int32), 2000) for _ in iter(stop.is_set, True)])
    busy.start()  # so that some forks happen in the middle of a region
    try:
        for _ in range(20):
            pid = os.fork()
            if pid == 0:
                done = np.zeros(1000, np.int32)
                run(done, 100)
                os._exit(0 if (done == 100).all() and threads.started_workers() == 3 else 1)
            assert os.waitpid(pid, 0)[1] == 0
    finally:
        stop.set()
        busy.join()


def python(code, **environment):
    env = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=env)


def test_the_interpreter_ends_cleanly_with_workers_alive():
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    code += "import runtime_helpers as kernels, ctypes, numpy as np\n"
    code += "from tracefuse.runtime import threads\nthreads.set_num_threads(8)\n"
    code += "c = kernels.build(kernels.counting_text(), tuple(threads.pool_symbols().items()))\n"
    code += "p, n = ctypes.c_void_p, ctypes.c_int64; f = ctypes.CFUNCTYPE(None, p, p, n, n, n)(c.address('regions'))\n"
    code += "a = np.zeros(1000, np.int32); f(a.ctypes.data, None, 100, 1000, 1); print(a.min(), a.max())"
    for _ in range(3):
        ended = python(code)
        assert (ended.returncode, ended.stdout.split()) == (0, ["100", "100"]), ended.stderr


def test_the_knob():
    ask = "from tracefuse.runtime import threads; print(threads.get_num_threads(), threads.max_threads())"
    assert python(ask, TRACEFUSE_NUM_THREADS="3").stdout.split()[0] == "3"
    assert python(ask, TRACEFUSE_NUM_THREADS="40").stdout.split() == ["40", "40"]
    wrong = python(ask, TRACEFUSE_NUM_THREADS="many")
    assert wrong.returncode != 0 and "TRACEFUSE_NUM_THREADS" in wrong.stderr


def test_the_control_group_counts(monkeypatch):
    monkeypatch.setattr(threads, "_cgroup_cpus", lambda: 0.5)
    assert threads.available_cpus() == 1
    monkeypatch.setattr(threads, "_cgroup_cpus", lambda: math.inf)
    assert threads.available_cpus() == len(os.sched_getaffinity(0))


def test_the_sequential_form_does_every_task_too():
    from tracefuse.backends.llvm import engine
    from tracefuse.runtime.pool_code import sequential_text

    pool = engine.link([engine.compile_object(sequential_text(), engine.host_target())])
    code = kernels.build(kernels.counting_text(), (("tf_parallel", pool.address("tf_parallel")),))
    p, n = ctypes.c_void_p, ctypes.c_int64
    done = np.zeros(100, np.int32)
    kernels.prototype(None, p, p, n, n, n)(code.address("regions"))(done.ctypes.data, None, 5, 100, 1)
    assert (done == 5).all()


@pytest.mark.slow
def test_for_a_while():
    threads.set_num_threads(8)
    run = region()
    for tasks in (2, 9, 100, 1000):
        done = np.zeros(tasks, np.int32)
        run(done, n=1_000_000)
        assert (done == 1_000_000).all()
