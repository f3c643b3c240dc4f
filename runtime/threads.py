"""The thread pool of the process: one, shared by all callers, its code generated (`pool_code.py`).

Kernels reach it by the symbol `tf_parallel`. Results never depend on the number of threads, nor on which thread did
what: kernels promise that for their tasks.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
import threading
import time
from typing import Any

from . import knobs
from .cache import cached_object
from .pool_code import CAPACITY, pool_text, sequential_text

FUTEX_NUMBERS = {"x86_64": 202, "aarch64": 98, "riscv64": 98}
SPIN_SECONDS = 40e-6  # how long an idle worker, or a waiting caller, stays awake
ROOM = 16  # threads one may always ask for, whatever the machine has: results with many can be tried anywhere

_lock = threading.Lock()
_pool: _Pool | None = None


def _cgroup_cpus() -> float:
    """CPUs' worth of time that the control group grants, or infinity."""
    try:  # version 2
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
        return math.inf if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:  # version 1
        with open("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") as file:
            quota = int(file.read())
        with open("/sys/fs/cgroup/cpu/cpu.cfs_period_us") as file:
            period = int(file.read())
        return math.inf if quota <= 0 or period <= 0 else quota / period
    except (OSError, ValueError):
        return math.inf


def available_cpus() -> int:
    """CPUs this process may use: its affinity, less what its control group withholds."""
    try:
        cpus = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        cpus = os.cpu_count() or 1
    return max(1, math.ceil(min(cpus, _cgroup_cpus())))


def default_threads() -> int:
    """TRACEFUSE_NUM_THREADS, or the CPUs this process may use. ValueError when the variable is negative, or no integer."""
    wanted = knobs.number("TRACEFUSE_NUM_THREADS", 0, least=0)
    return min(CAPACITY, wanted or available_cpus())


class _Pool:
    """The linked pool. Never freed: workers run in its code until the process ends."""

    def __init__(self) -> None:
        from ..backends.llvm.engine import compile_object, host_target, link

        target = host_target()
        arch = target.triple.split("-", 1)[0]
        number = FUTEX_NUMBERS.get(arch) if sys.platform == "linux" else None
        self.parallel = number is not None
        text = pool_text(arch, number) if number is not None else sequential_text()
        self.code = link([cached_object(text, target.key, lambda: compile_object(text, target, opt=3))])
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.code))
        self.symbols = {"tf_parallel": self.code.address("tf_parallel")}
        self.threads = self.most = 1
        if not self.parallel:
            return
        self.threads = default_threads()
        self.most = min(CAPACITY, max(self.threads, available_cpus(), ROOM))
        self._set = self._function("tf_pool_set", None, ctypes.c_int64, ctypes.c_int64)
        self._workers = self._function("tf_pool_workers", ctypes.c_int64)
        self._get = self._function("tf_pool_get_threads", ctypes.c_int64)
        self._reset = self._function("tf_pool_reset", None)
        self.spins = self._calibrate()
        self._set(self.threads, self.spins)
        os.register_at_fork(after_in_child=self._after_fork)

    def _function(self, name: str, result: Any, *arguments: Any) -> Any:
        return ctypes.CFUNCTYPE(result, *arguments)(self.code.address(name))

    def _calibrate(self) -> int:
        """Rounds of the spin loop in SPIN_SECONDS."""
        spin, rounds = self._function("tf_pool_spin", None, ctypes.c_int64), 200
        best = math.inf
        for _ in range(5):
            start = time.perf_counter()
            spin(rounds)
            best = min(best, time.perf_counter() - start)
        return max(64, int(rounds * SPIN_SECONDS / max(best, 1e-7)))

    def _after_fork(self) -> None:
        self._reset()
        self._set(self.threads, self.spins)

    def set(self, threads: int) -> None:
        self.threads = threads
        if self.parallel:
            self._set(threads, self.spins)

    def workers(self) -> int:
        return self._workers() if self.parallel else 0


def _the_pool() -> _Pool:
    global _pool
    if _pool is None:
        with _lock:
            if _pool is None:
                _pool = _Pool()
    return _pool


def _unlock_after_fork() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_after_fork)


def pool_symbols() -> dict[str, int]:
    """Addresses of what kernels need from the runtime, for `engine.link`."""
    return dict(_the_pool().symbols)


def get_num_threads() -> int:
    """How many threads a parallel region uses at most, the caller's included."""
    return _the_pool().threads


def max_threads() -> int:
    """The most that `set_num_threads` takes. Fixed for the process: per-thread scratch is sized by it."""
    return _the_pool().most


def set_num_threads(threads: int) -> None:
    """Regions from now on use at most `threads` threads. Workers beyond it stay, asleep.

    Raises ValueError below 1 and above `max_threads()`; start the process with TRACEFUSE_NUM_THREADS for more.
    """
    pool = _the_pool()
    if not 1 <= threads <= pool.most and not (threads >= 1 and not pool.parallel):
        raise ValueError(
            f"set_num_threads({threads}): 1 to {pool.most} threads are possible in this process; "
            "start it with TRACEFUSE_NUM_THREADS set for more"
        )
    pool.set(threads if pool.parallel else 1)


def started_workers() -> int:
    """Worker threads made so far (they are made by the first parallel region, not before)."""
    return _the_pool().workers()
