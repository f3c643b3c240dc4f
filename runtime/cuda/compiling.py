"""Compiles kernels by Triton: a few in this process, many in processes beside it.

Triton holds the interpreter's lock for about a quarter of what it does, so that threads would stop helping at four.
Workers are programs of their own, not forks: they have none of this process's memory or devices, and a crash of the
compiler ends one of them only.
"""

from __future__ import annotations

import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import IO, Any

from ...backends.triton.lowered import TritonKernel
from .code import Image

FEW = 4  # kernels that are compiled here: a worker takes about as long to start
MOST_WORKERS = 16
PORTABLE = 89  # the newest architecture whose PTX runs on all that come after it: Triton's for 90 and later is for one


def compile_images(
    kernels: Sequence[TritonKernel], capability: int, breathe: Callable[[], None] = lambda: None
) -> list[Image]:
    """Machine code for devices of that compute capability (80 for sm_80). breathe: called between kernels, in this
    thread."""
    workers = min(len(kernels) // 2, _cores(), MOST_WORKERS)
    if len(kernels) < FEW or workers < 2:
        out = []
        for kernel in kernels:
            breathe()
            out.append(compile_image(kernel, capability))
        return out
    return _Workers(kernels, capability, workers).run(breathe)


def compile_image(kernel: TritonKernel, capability: int) -> Image:
    """In this process. Devices that this Triton does not know get PTX, which their driver compiles."""
    from ...backends.triton.compile import compile_code

    try:
        found = compile_code(kernel, capability)
        data = found.cubin
    except Exception:
        if capability <= PORTABLE:
            raise
        try:
            found = compile_code(kernel, PORTABLE)
        except Exception:
            found = None
        if found is None:
            raise  # it's the kernel, not the device
        data = found.ptx.encode() + b"\0"
    return Image(data, found.symbol, found.threads, found.shared, found.scratch, found.parameters)


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


class _Workers:
    """Processes that compile a list of kernels: each is fed by a thread, which gives it the next one when it is done."""

    def __init__(self, kernels: Sequence[TritonKernel], capability: int, count: int):
        self.kernels, self.capability = kernels, capability
        self.images: list[Image | None] = [None] * len(kernels)
        self.todo: queue.SimpleQueue[int] = queue.SimpleQueue()
        for k in range(len(kernels)):
            self.todo.put(k)
        self.error: Exception | None = None
        self.processes = [_start() for _ in range(count)]
        self.done: queue.SimpleQueue[int | None] = queue.SimpleQueue()  # None: a worker has ended

    def run(self, breathe: Callable[[], None]) -> list[Image]:
        threads = [threading.Thread(target=self._feed, args=(p,), daemon=True) for p in self.processes]
        for t in threads:
            t.start()
        try:
            left = len(threads)
            while left:
                left -= self.done.get() is None
                breathe()
        except BaseException:
            for p in self.processes:
                p.kill()
            raise
        finally:
            for t, p in zip(threads, self.processes):
                t.join()
                p.wait()
        if self.error is not None:
            raise self.error
        # What a worker that crashed has left over tells here what is wrong with it.
        return [i or compile_image(k, self.capability) for i, k in zip(self.images, self.kernels)]

    def _feed(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None and process.stdout is not None
        try:
            while self.error is None:
                k = self.todo.get_nowait()
                _send(process.stdin, (self.kernels[k], self.capability))
                answer = pickle.load(process.stdout)
                if isinstance(answer, Exception):
                    self.error = answer
                else:
                    self.images[k] = answer
                self.done.put(k)
        except (queue.Empty, EOFError, OSError, pickle.UnpicklingError):
            pass  # all is done, or the worker is gone
        finally:
            for pipe in (process.stdin, process.stdout):
                try:
                    pipe.close()
                except OSError:
                    pass
            self.done.put(None)


def _start() -> subprocess.Popen[bytes]:
    """A process that runs `serve`, with this one's path to modules, and without its signals."""
    environment = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "PYTHONPATH")}
    environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    command = [sys.executable, "-c", f"from {__name__} import serve; serve()"]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True
    )


def _send(pipe: IO[bytes], message: Any) -> None:
    pickle.dump(message, pipe)
    pipe.flush()


def serve() -> None:
    """The life of a worker: kernels come on its standard input, images or exceptions go to its standard output."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else is printed
    while True:
        try:
            kernel, capability = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer: Any = compile_image(kernel, capability)
        except Exception as e:
            answer = RuntimeError(f"{kernel.name}: {type(e).__name__}: {e}\n{kernel.source}")
        _send(answers, answer)
