"""Small hand-written code for the tests of the runtime."""

import ctypes
from functools import cache

from tracefuse.backends.llvm import engine
from tracefuse.backends.llvm.builder import Module, Val, i32, i64, literal

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
