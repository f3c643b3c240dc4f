"""Small hand-written code for the tests of the runtime, a stand-in for Tensor, and specs of traces."""

import ctypes
import sys
from functools import cache

import numpy as np
from tracefuse.backends.llvm import engine
from tracefuse.backends.llvm.builder import Module, Val, i32, i64, literal
from tracefuse.runtime import entry
from tracefuse.runtime.trace_spec import ArrayArg, Output, Result, Slot, TraceSpec

NULL = Val("null", "ptr")


@cache
def build(text: str, symbols: tuple[tuple[str, int], ...] = ()) -> engine.Code:
    return engine.link([engine.compile_object(text, engine.host_target())], dict(symbols))


def counting_text() -> str:
    """count: bufs[task] += 1, other[task] = thread (other = dims); regions: n times tf_parallel over it;
    nested: a task of one region starts another over 100 tasks at bufs + 100 * task."""
    m = Module()
    phase = [("ptr", "bufs"), ("ptr", "dims"), ("i64", "begin"), ("i64", "end"), ("i64", "thread")]
    f = m.function("count", "void", phase, "nounwind")
    bufs, dims, begin, end, thread = f.args
    with f.loop(begin, end) as task:
        cell = f.gep("i32", bufs, task.index)
        f.store(f.add(f.load("i32", cell), i32(1)), cell)
        with f.when(f.cmp("ne", dims, NULL)):
            f.store(thread, f.gep("i64", dims, task.index))
    f.ret()
    f = m.function("nest", "void", phase, "nounwind")
    bufs, dims, begin, end, thread = f.args
    with f.loop(begin, end) as task:
        part = f.gep("i32", bufs, f.mul(task.index, i64(100)))
        f.call("tf_parallel", "void", Val("@count", "ptr"), part, NULL, i64(100), i64(1))
    f.ret()
    for name, kernel in (("regions", "@count"), ("nested", "@nest")):
        f = m.function(
            name, "void", [("ptr", "bufs"), ("ptr", "dims"), ("i64", "n"), ("i64", "tasks"), ("i64", "grain")]
        )
        bufs, dims, n, tasks, grain = f.args
        with f.loop(i64(0), n):
            f.call("tf_parallel", "void", Val(kernel, "ptr"), bufs, dims, tasks, grain)
        f.ret()
    return str(m)


def affine_text(inputs: int = 1, size: int | None = 16, status: int = 0, spin: int = 0, scratch: bool = False) -> str:
    """i32 plan: values[inputs] = sum of the f32 inputs + 1, over `size` elements (None: dims[0]).

    spin: rounds of doing nothing before. scratch: the result goes through the arena.
    """
    m = Module()
    f = m.function("plan", "i32", [("ptr", "values"), ("ptr", "dims"), ("ptr", "arena")], "nounwind")
    values, dims, arena = f.args
    if spin:
        with f.loop(i64(0), i64(spin)):
            f.do('call void asm sideeffect "", ""()')
    pointers = [f.load("ptr", f.gep("ptr", values, i64(k))) for k in range(inputs + 1)]
    count = f.load("i64", dims) if size is None else i64(size)
    with f.loop(i64(0), count) as each:
        total = literal(1.0, "float")
        for p in pointers[:-1]:
            total = f.add(total, f.load("float", f.gep("float", p, each.index)))
        f.store(total, f.gep("float", arena if scratch else pointers[-1], each.index))
    if scratch:
        with f.loop(i64(0), count) as each:
            f.store(f.load("float", f.gep("float", arena, each.index)), f.gep("float", pointers[-1], each.index))
    f.ret(i32(status))
    f = m.function("derive", "i32", [("ptr", "dims")], "nounwind")  # dims[1] = 2 * dims[0]; declines odd sizes
    (dims,) = f.args
    n = f.load("i64", dims)
    f.store(f.mul(n, i64(2)), f.gep("i64", dims, i64(1)))
    f.ret(f.convert("trunc", f.binary("and", n, i64(1)), "i32"))
    f = m.function(
        "axpy", "i32", [("ptr", "values"), ("ptr", "dims"), ("ptr", "arena")], "nounwind"
    )  # state += arg * c
    values, _, _ = f.args
    x, state, c = (f.load("ptr", f.gep("ptr", values, i64(k))) for k in range(3))
    factor = f.convert("fptrunc", f.load("double", c), "float")
    with f.loop(i64(0), i64(size or 16)) as each:
        cell = f.gep("float", state, each.index)
        f.store(f.add(f.load("float", cell), f.mul(f.load("float", f.gep("float", x, each.index)), factor)), cell)
    f.ret(i32(0))
    return str(m)


def prototype(result, *arguments):
    return ctypes.CFUNCTYPE(result, *arguments)


# ---- specs and stand-ins

F4 = np.dtype("f4")


class Tensor:
    __slots__ = ("_data", "_grad", "_node", "_requires_grad", "_base", "_view", "_version", "__weakref__")

    def __init__(self, data, requires_grad=None):
        self._data, self._requires_grad = data, requires_grad


class Parameter(Tensor):
    __slots__ = ()


def miss(*args, **kwargs):
    return ("miss", args, kwargs)


def missed(answer):
    return type(answer) is tuple and len(answer) == 3 and answer[0] == "miss"


def references(tensor):
    """How many there are to the tensor's array, itself included."""
    return sys.getrefcount(tensor._data) - 1


def vector(n=16, start=0.0):
    return Tensor(np.arange(n, dtype="f4") + np.float32(start))


def spec_of(inputs=1, size=16, symbol="plan", **changes):
    """Sum of the inputs plus one; `changes` replace fields of the spec."""
    text = {k: changes.pop(k) for k in ("status", "spin", "scratch") if k in changes}
    code = build(affine_text(inputs, size, **text))
    shape = (size if size is not None else Slot(0),)
    fields = dict(
        plan=code.address(symbol),
        args=tuple(ArrayArg(k, F4, shape) for k in range(inputs)),
        values=inputs + 1,
        outputs=(Output(inputs, F4, shape),),
        results=(Result("tensor"),),
        dims=1 if size is None else 0,
        keep=(code,),
    )
    return TraceSpec(**(fields | changes))  # type: ignore[arg-type]


def function_of(native, *specs, to=miss):
    f = entry.new_function(to, native=native)
    for s in specs:
        entry.add_trace(f, s)
    return f
