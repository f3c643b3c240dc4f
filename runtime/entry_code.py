"""The native entry, as LLVM text: one function for all compiled functions, walking the tables of `entry_layout.py`.

    tf_entry(function, args, nargs, names): for each trace of the function's chain: guards? run it : next; else `miss`

Python's lock is held but for the plan itself. The chain is held by a reference for the whole call, so whoever replaces
it meanwhile frees nothing that is in use.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..backends.llvm.builder import Block, Function, Module, Val, i32, i64
from . import entry_layout as at
from .entry_layout import Layout

NULL = Val("null", "ptr")
SETTINGS = Val("@tf_entry_settings", "ptr")
MISSED = 1  # what tf_run returns when the plan declined
TRUE, FALSE = Val("true", "i1"), Val("false", "i1")


class _Code:
    """A function under construction, with words to read and one place to fail to."""

    def __init__(self, m: Module, name: str, ret: str, params: list[tuple[str, str]], linkage: str = "internal"):
        # the frame grows with the trace: touch every page of it, so that a stack that is too small is noticed
        attrs = "nounwind" if linkage else 'nounwind uwtable "probe-stack"="inline-asm"'
        self.f: Function = m.function(name, ret, params, attrs, linkage)
        self.args = self.f.args
        self.no: Block = self.f.block("no")

    def at(self, base: Val, offset: int, type: str = "ptr") -> Val:
        """The field at a byte offset."""
        return self.f.load(type, self.f.gep("i8", base, i64(offset)))

    def word(self, base: Val, index: int, type: str = "i64") -> Val:
        return self.f.load(type, self.f.gep("i64", base, i64(index)))

    def place(self, base: Val, index: Val) -> Val:
        return self.f.gep("i64", base, index)

    def row(self, table: Val, index: Val, words: int) -> Val:
        return self.f.gep("i64", table, self.f.mul(index, i64(words)))

    def require(self, condition: Val) -> None:
        """Goes on where `condition` holds, else to `no`."""
        go_on = self.f.block("ok")
        self.f.cbr(condition, go_on, self.no)
        self.f.current = go_on

    def equal(self, x: Val, y: Val) -> Val:
        return self.f.cmp("eq", x, y)

    @contextmanager
    def rows(self, base: Val, count_at: int, words: int) -> Iterator[tuple[Val, Val]]:
        """for index, row in enumerate(table): a table's count stands before its address."""
        table = self.word(base, count_at + 1, "ptr")
        with self.f.loop(i64(0), self.word(base, count_at)) as each:
            yield each.index, self.row(table, each.index, words)

    def finish(self, yes: Val, no: Val) -> None:
        self.f.ret(yes)
        self.f.current = self.no
        self.f.ret(no)


def _check_array(m: Module) -> None:
    """i1 tf_check_array(array, record, frame, dims, sizes): is it what the record asks; pointer, sizes -> frame."""
    c = _Code(
        m,
        "tf_check_array",
        "i1",
        [("ptr", "array"), ("ptr", "rec"), ("ptr", "frame"), ("ptr", "dims"), ("ptr", "sizes")],
    )
    f, (array, record, frame, dims, sizes) = c.f, c.args
    c.require(c.equal(c.at(array, 8), Val("@tf_array_type", "ptr")))
    wanted = f.convert("trunc", c.word(record, at.A_FLAGS), "i32")
    c.require(c.equal(f.binary("and", c.at(array, at.ARRAY_FLAGS, "i32"), wanted), wanted))
    descr = c.at(array, at.ARRAY_DESCR)
    number = f.convert("sext", c.at(descr, at.DESCR_TYPE_NUMBER, "i32"), "i64")
    c.require(c.equal(number, c.word(record, at.A_TYPE_NUMBER)))
    c.require(f.cmp("ne", c.at(descr, at.DESCR_BYTE_ORDER, "i8"), Val(str(ord(">")), "i8")))
    ndim = f.convert("sext", c.at(array, at.ARRAY_NDIM, "i32"), "i64")
    c.require(c.equal(ndim, c.word(record, at.A_NDIM)))
    shape, rows = c.at(array, at.ARRAY_DIMS), c.word(record, at.A_DIMS, "ptr")
    with f.loop(i64(0), ndim, carried=[c.word(record, at.A_ITEM)]) as axes:
        size = f.load("i64", c.place(shape, axes.index))
        rule = c.row(rows, axes.index, at.DIM_WORDS)
        slot, low = c.word(rule, at.D_SLOT), c.word(rule, at.D_LOW)
        constant, symbolic, bind, same, good = (f.block(n) for n in ("constant", "symbolic", "bind", "same", "good"))
        f.cbr(f.cmp("slt", slot, i64(0)), constant, symbolic)
        f.current = constant
        f.cbr(c.equal(size, low), good, c.no)
        f.current = symbolic
        f.cbr(f.cmp("ne", c.word(rule, at.D_FIRST), i64(0)), bind, same)
        f.current = bind
        f.store(size, c.place(dims, slot))
        fits = f.binary("and", f.cmp("sge", size, low), f.cmp("sle", size, c.word(rule, at.D_HIGH)))
        f.cbr(fits, good, c.no)
        f.current = same
        f.cbr(c.equal(size, f.load("i64", c.place(dims, slot))), good, c.no)
        f.current = good
        axes.next = [f.mul(axes.carried[0], size)]
    nbytes = axes.results[0]
    strides = c.word(record, at.A_STRIDES, "ptr")
    with f.loop(i64(0), f.select(c.equal(strides, NULL), i64(0), ndim)) as axes:
        stride = f.load("i64", c.place(c.at(array, at.ARRAY_STRIDES), axes.index))
        c.require(c.equal(stride, f.load("i64", c.place(strides, axes.index))))
    value, strided = c.word(record, at.A_VALUE), c.word(record, at.A_NBYTES)
    f.store(c.at(array, at.ARRAY_DATA), c.place(frame, value))
    f.store(f.select(f.cmp("slt", strided, i64(0)), nbytes, strided), c.place(sizes, value))
    c.finish(TRUE, FALSE)


def _check_arg(m: Module) -> None:
    """i1 tf_check_arg(arg, record, frame, dims, sizes, scalar, held): one argument against its record.

    A number goes to `scalar`, an array (not yet owned) to `held`, which stays null otherwise.
    """
    params = [("ptr", n) for n in ("arg", "rec", "frame", "dims", "sizes", "scalar", "held")]
    c = _Code(m, "tf_check_arg", "i1", params)
    f, (arg, record, frame, dims, sizes, scalar, held) = c.f, c.args
    f.store(NULL, held)
    kind, type = c.word(record, at.A_KIND), c.at(arg, 8)
    names = ("tensor", "array", "static", "equal", "bits", "float", "int")
    cases = [f.block(n) for n in names]
    check, good = f.block("check"), f.block("good")
    listed = " ".join(f"i64 {k}, label %{b.label}" for k, b in enumerate(cases))
    f.current.terminator = f"  switch {kind}, label %{c.no.label} [ {listed} ]"

    f.current = cases[at.TENSOR]
    c.require(c.equal(type, c.word(SETTINGS, at.G_TENSOR_TYPE, "ptr")))
    with c.rows(record, at.A_SLOTS, 3) as (_, slot):
        unset = f.emit("ptr", f"load ptr, {f.gep('i8', arg, c.word(slot, 0))}")
        found = f.select(c.equal(unset, NULL), c.word(SETTINGS, at.G_NONE, "ptr"), unset)
        first, second = c.equal(found, c.word(slot, 1, "ptr")), c.equal(found, c.word(slot, 2, "ptr"))
        c.require(f.binary("or", first, second))
    data = f.load("ptr", f.gep("i8", arg, c.word(SETTINGS, at.G_DATA_SLOT)))
    c.require(f.cmp("ne", data, NULL))
    tensor_end = f.current
    f.br(check)

    f.current = cases[at.ARRAY]
    f.br(check)
    f.current = check
    array = f.phi("ptr", (data, tensor_end), (arg, cases[at.ARRAY]))
    f.store(array, held)
    f.cbr(f.call_pointer(Val("@tf_check_array", "ptr"), "i1", array, record, frame, dims, sizes), good, c.no)

    f.current = cases[at.STATIC]
    f.cbr(c.equal(arg, c.word(record, at.A_OBJECT, "ptr")), good, c.no)

    f.current = cases[at.EQUAL]
    expected = c.word(record, at.A_OBJECT, "ptr")
    c.require(c.equal(type, c.word(record, at.A_TYPE, "ptr")))
    f.cbr(c.equal(f.call("PyObject_RichCompareBool", "i32", arg, expected, i32(2)), i32(1)), good, c.no)

    f.current = cases[at.BITS]
    c.require(c.equal(type, Val("@PyFloat_Type", "ptr")))
    f.cbr(c.equal(c.at(arg, 16, "i64"), c.word(record, at.A_OBJECT)), good, c.no)

    f.current = cases[at.FLOAT]
    c.require(c.equal(type, Val("@PyFloat_Type", "ptr")))
    f.store(c.at(arg, 16, "i64"), scalar)
    f.store(scalar, c.place(frame, c.word(record, at.A_VALUE)))
    f.br(good)

    f.current = cases[at.INT]
    c.require(c.equal(type, Val("@PyLong_Type", "ptr")))
    overflow = f.alloca("i32", align=4)
    number = f.call("PyLong_AsLongLongAndOverflow", "i64", arg, overflow)
    c.require(c.equal(f.load("i32", overflow), i32(0)))
    f.store(number, scalar)
    f.store(scalar, c.place(frame, c.word(record, at.A_VALUE)))
    f.br(good)

    f.current = good
    c.finish(TRUE, FALSE)


def _guard(m: Module) -> None:
    """i1 tf_guard(trace, args, nargs, frame): does this trace serve the call? Fills values, dims, scalars, held."""
    c = _Code(m, "tf_guard", "i1", [("ptr", "trace"), ("ptr", "args"), ("i64", "nargs"), ("ptr", "frame")])
    f, (trace, args, nargs, frame) = c.f, c.args
    c.require(c.equal(nargs, c.word(trace, at.ARGS)))
    with c.rows(trace, at.WORDS, 2) as (_, guard):
        c.require(c.equal(f.load("i64", c.word(guard, 0, "ptr")), c.word(guard, 1)))
    dims, sizes, scalars, held = (
        c.place(frame, c.word(trace, k)) for k in (at.AT_DIMS, at.AT_SIZES, at.AT_SCALARS, at.AT_HELD)
    )
    with c.rows(trace, at.ARGS, at.ARG_WORDS) as (k, record):
        arg = f.load("ptr", c.place(args, k))
        rest = (record, frame, dims, sizes, c.place(scalars, k), c.place(held, k))
        c.require(f.call_pointer(Val("@tf_check_arg", "ptr"), "i1", arg, *rest))
    with c.rows(trace, at.STATES, at.STATE_WORDS) as (_, state):
        array, data = c.word(state, at.S_ARRAY, "ptr"), c.word(state, at.S_DATA, "ptr")
        slot = f.gep("i8", c.word(state, at.S_TENSOR, "ptr"), c.word(SETTINGS, at.G_DATA_SLOT))
        c.require(c.equal(f.load("ptr", slot), array))
        c.require(c.equal(c.at(array, at.ARRAY_DATA), data))
        value = c.word(state, at.S_VALUE)
        f.store(data, c.place(frame, value))
        f.store(c.word(state, at.S_NBYTES), c.place(sizes, value))
    with c.rows(trace, at.DICTS, 3) as (_, guard):
        found = f.call("PyDict_GetItemWithError", "ptr", c.word(guard, 0, "ptr"), c.word(guard, 1, "ptr"))
        c.require(c.equal(found, c.word(guard, 2, "ptr")))
    with c.rows(trace, at.DISJOINT, 2) as (_, pair):
        (a, a_end), (b, b_end) = (_range(c, frame, sizes, c.word(pair, k)) for k in (0, 1))
        c.require(f.binary("or", f.cmp("ule", a_end, b), f.cmp("ule", b_end, a)))
    derive = c.word(trace, at.DERIVE, "ptr")
    with f.when(f.cmp("ne", derive, NULL)):
        c.require(c.equal(f.call_pointer(derive, "i32", dims), i32(0)))
    c.finish(TRUE, FALSE)


def _range(c: _Code, frame: Val, sizes: Val, value: Val) -> tuple[Val, Val]:
    start = c.f.load("i64", c.place(frame, value))
    return start, c.f.add(start, c.f.load("i64", c.place(sizes, value)))


def _make_output(m: Module) -> None:
    """ptr tf_make_output(record, dims): a new array, or null with an exception. Big ones come from `memory.empty`."""
    c = _Code(m, "tf_make_output", "ptr", [("ptr", "rec"), ("ptr", "dims")])
    f, (record, dims) = c.f, c.args
    ndim, rows = c.word(record, at.O_NDIM), c.word(record, at.O_DIMS, "ptr")
    shape = f.alloca("i64", 64, align=16)
    with f.loop(i64(0), ndim, carried=[c.word(record, at.O_ITEM)]) as axes:
        rule = c.row(rows, axes.index, at.DIM_WORDS)
        slot = c.word(rule, at.D_SLOT)
        symbolic = f.cmp("sge", slot, i64(0))
        source = f.select(symbolic, c.place(dims, slot), c.place(rule, i64(at.D_LOW)))
        size = f.load("i64", source)
        f.store(size, c.place(shape, axes.index))
        axes.next = [f.mul(axes.carried[0], size)]
    big, small = f.block("big"), f.block("small")
    f.cbr(f.cmp("sge", axes.results[0], c.word(SETTINGS, at.G_BIG)), big, small)
    f.current = small
    number, rank = (f.convert("trunc", c.word(record, k), "i32") for k in (at.O_TYPE_NUMBER, at.O_NDIM))
    array_type = Val("@tf_array_type", "ptr")
    f.ret(f.call("tf_array_new", "ptr", array_type, rank, shape, number, NULL, NULL, i32(0), i32(0), NULL))
    f.current = big
    sizes = f.call("PyTuple_New", "ptr", ndim)
    c.require(f.cmp("ne", sizes, NULL))
    with f.loop(i64(0), ndim) as axes:
        number = f.call("PyLong_FromLongLong", "ptr", f.load("i64", c.place(shape, axes.index)))
        f.call("PyTuple_SetItem", "i32", sizes, axes.index, number)
    pair = f.alloca("ptr", 2, align=16)
    f.store(sizes, pair)
    f.store(c.word(record, at.O_DTYPE, "ptr"), c.place(pair, i64(1)))
    array = f.call("PyObject_Vectorcall", "ptr", c.word(SETTINGS, at.G_EMPTY, "ptr"), pair, i64(2), NULL)
    f.call("Py_DecRef", "void", sizes)
    c.finish(array, NULL)


def _box(m: Module) -> None:
    """ptr tf_box(array): a new Tensor with it (taking over the reference), or null with an exception."""
    c = _Code(m, "tf_box", "ptr", [("ptr", "array")])
    f, (array,) = c.f, c.args
    tensor = f.call("PyType_GenericAlloc", "ptr", c.word(SETTINGS, at.G_TENSOR_TYPE, "ptr"), i64(0))
    c.require(f.cmp("ne", tensor, NULL))
    f.store(array, f.gep("i8", tensor, c.word(SETTINGS, at.G_DATA_SLOT)))
    with c.rows(SETTINGS, at.G_DEFAULTS, 2) as (_, default):
        value = c.word(default, 1, "ptr")
        f.call("Py_IncRef", "void", value)
        f.store(value, f.gep("i8", tensor, c.word(default, 0)))
    f.ret(tensor)
    f.current = c.no
    f.call("Py_DecRef", "void", array)
    f.ret(NULL)


def _result(m: Module) -> None:
    """ptr tf_result(record, args, outputs, earlier): one result as a new reference; null with an exception."""
    c = _Code(m, "tf_result", "ptr", [("ptr", "rec"), ("ptr", "args"), ("ptr", "outputs"), ("ptr", "earlier")])
    f, (record, args, outputs, earlier) = c.f, c.args
    index = c.word(record, 1)
    cases = [f.block(n) for n in ("tensor", "array", "argument", "again", "object")]
    done = f.block("done")
    listed = " ".join(f"i64 {k}, label %{b.label}" for k, b in enumerate(cases))
    f.current.terminator = f"  switch {c.word(record, 0)}, label %{c.no.label} [ {listed} ]"
    found: list[tuple[Val, Block]] = []
    f.current = cases[at.R_TENSOR]
    array = f.load("ptr", c.place(outputs, index))
    f.call("Py_IncRef", "void", array)
    f.ret(f.call_pointer(Val("@tf_box", "ptr"), "ptr", array))
    f.current = cases[at.R_AGAIN]
    found.append((f.call("PyTuple_GetItem", "ptr", earlier, index), f.current))
    f.br(done)
    for case, table in ((at.R_ARRAY, outputs), (at.R_ARGUMENT, args), (at.R_OBJECT, None)):
        f.current = cases[case]
        one = f.load("ptr", c.place(table, index)) if table else c.word(record, 1, "ptr")
        found.append((one, f.current))
        f.br(done)
    f.current = done
    one = f.phi("ptr", *found)
    f.call("Py_IncRef", "void", one)
    c.finish(one, NULL)


def _results(m: Module) -> None:
    """ptr tf_results(trace, args, outputs): what the call returns; null with an exception."""
    c = _Code(m, "tf_results", "ptr", [("ptr", "trace"), ("ptr", "args"), ("ptr", "outputs")])
    f, (trace, args, outputs) = c.f, c.args
    single, several = f.block("single"), f.block("several")
    structure = c.word(trace, at.STRUCTURE)
    f.cbr(c.equal(structure, i64(at.SINGLE)), single, several)
    f.current = single
    one = Val("@tf_result", "ptr")
    f.ret(f.call_pointer(one, "ptr", c.word(trace, at.RESULT_TABLE, "ptr"), args, outputs, NULL))
    f.current = several
    everything = f.call("PyTuple_New", "ptr", c.word(trace, at.RESULTS))
    drop = f.block("drop")
    whole = f.cmp("ne", everything, NULL)
    c.require(whole)
    with c.rows(trace, at.RESULTS, 2) as (k, record):
        item = f.call_pointer(one, "ptr", record, args, outputs, everything)
        go_on = f.block("ok")
        f.cbr(f.cmp("ne", item, NULL), go_on, drop)
        f.current = go_on
        f.call("PyTuple_SetItem", "i32", everything, k, item)
    finished, plain = f.block("finished"), f.block("plain")
    f.cbr(c.equal(structure, i64(at.FINISHED)), finished, plain)
    f.current = plain
    f.ret(everything)
    f.current = finished
    cell = f.alloca("ptr", align=16)
    f.store(everything, cell)
    answer = f.call("PyObject_Vectorcall", "ptr", c.word(trace, at.FINISH, "ptr"), cell, i64(1), NULL)
    f.call("Py_DecRef", "void", everything)
    f.ret(answer)
    f.current = drop
    f.call("Py_DecRef", "void", everything)
    f.ret(NULL)
    f.current = c.no
    f.ret(NULL)


def _arena(m: Module) -> None:
    """ptr tf_arena(nbytes, lease): scratch for one call; null with an exception.

    The process's one arena when it is free and big enough, else G_LEASE(nbytes): a tuple of an address and whatever
    owns the memory there, which goes to `lease`.
    """
    c = _Code(m, "tf_arena", "ptr", [("i64", "nbytes"), ("ptr", "lease")])
    f, (nbytes, lease) = c.f, c.args
    f.store(NULL, lease)
    nothing, shared, own, take = (f.block(n) for n in ("nothing", "shared", "own", "take"))
    f.cbr(f.cmp("sle", nbytes, i64(0)), nothing, shared)
    f.current = nothing
    f.ret(SETTINGS)
    f.current = shared
    idle = c.equal(c.word(SETTINGS, at.G_ARENA_BUSY), i64(0))
    f.cbr(f.binary("and", idle, f.cmp("sle", nbytes, c.word(SETTINGS, at.G_ARENA_SIZE))), take, own)
    f.current = take
    f.store(i64(1), c.place(SETTINGS, i64(at.G_ARENA_BUSY)))
    f.ret(c.word(SETTINGS, at.G_ARENA_ADDRESS, "ptr"))
    f.current = own
    cell = f.alloca("ptr", align=16)
    number = f.call("PyLong_FromLongLong", "ptr", nbytes)
    c.require(f.cmp("ne", number, NULL))
    f.store(number, cell)
    leased = f.call("PyObject_Vectorcall", "ptr", c.word(SETTINGS, at.G_LEASE, "ptr"), cell, i64(1), NULL)
    f.call("Py_DecRef", "void", number)
    c.require(f.cmp("ne", leased, NULL))
    f.store(leased, lease)
    f.ret(f.call("PyLong_AsVoidPtr", "ptr", f.call("PyTuple_GetItem", "ptr", leased, i64(0))))
    f.current = c.no
    f.ret(NULL)


def _run(m: Module) -> None:
    """ptr tf_run(trace, args, frame): outputs, plan, results. Null with an exception; MISSED when the plan declines."""
    c = _Code(m, "tf_run", "ptr", [("ptr", "trace"), ("ptr", "args"), ("ptr", "frame")])
    f, (trace, args, frame) = c.f, c.args
    dims, held, outputs = (c.place(frame, c.word(trace, k)) for k in (at.AT_DIMS, at.AT_HELD, at.AT_OUTPUTS))
    answer = f.alloca("ptr", align=8)
    lease = f.alloca("ptr", align=8)
    f.store(NULL, answer)
    f.store(NULL, lease)
    nargs, made = c.word(trace, at.ARGS), c.word(trace, at.OUTPUTS)
    # owned from here on: someone else may rebind a tensor's data while other threads run
    with f.loop(i64(0), nargs) as each:
        f.call("Py_IncRef", "void", f.load("ptr", c.place(held, each.index)))
    with f.loop(i64(0), made) as each:
        f.store(NULL, c.place(outputs, each.index))
    with c.rows(trace, at.CONSTANTS, 2) as (_, constant):
        f.store(c.word(constant, 1), c.place(frame, c.word(constant, 0)))
    with c.rows(trace, at.OUTPUTS, at.OUTPUT_WORDS) as (k, record):
        array = f.call_pointer(Val("@tf_make_output", "ptr"), "ptr", record, dims)
        c.require(f.cmp("ne", array, NULL))
        f.store(array, c.place(outputs, k))
        f.store(c.at(array, at.ARRAY_DATA), c.place(frame, c.word(record, at.O_VALUE)))
    slot = c.word(trace, at.ARENA_DIM)
    size = f.select(f.cmp("slt", slot, i64(0)), c.place(trace, i64(at.ARENA)), c.place(dims, slot))
    arena = f.call_pointer(Val("@tf_arena", "ptr"), "ptr", f.load("i64", size), lease)
    c.require(f.cmp("ne", arena, NULL))
    plan = c.word(trace, at.PLAN, "ptr")
    locked, free, after = f.block("locked"), f.block("free"), f.block("after")
    f.cbr(f.cmp("ne", c.word(trace, at.RELEASE_GIL), i64(0)), free, locked)
    f.current = locked
    one = f.call_pointer(plan, "i32", frame, dims, arena)
    f.br(after)
    f.current = free
    state = f.call("PyEval_SaveThread", "ptr")
    two = f.call_pointer(plan, "i32", frame, dims, arena)
    f.call("PyEval_RestoreThread", "void", state)
    f.br(after)
    f.current = after
    status = f.phi("i32", (one, locked), (two, free))
    with f.when(c.equal(arena, c.word(SETTINGS, at.G_ARENA_ADDRESS, "ptr"))):
        f.store(i64(0), c.place(SETTINGS, i64(at.G_ARENA_BUSY)))
    done, declined = f.block("done"), f.block("declined")
    f.cbr(c.equal(status, i32(0)), done, declined)
    f.current = declined
    f.store(f.convert("inttoptr", i64(MISSED), "ptr"), answer)
    f.br(c.no)
    f.current = done
    f.store(f.call_pointer(Val("@tf_results", "ptr"), "ptr", trace, args, outputs), answer)
    f.br(c.no)
    f.current = c.no  # the way out for all: lets everything go (Py_DecRef takes null)
    f.call("Py_DecRef", "void", f.load("ptr", lease))
    with f.loop(i64(0), made) as each:
        f.call("Py_DecRef", "void", f.load("ptr", c.place(outputs, each.index)))
    with f.loop(i64(0), nargs) as each:
        f.call("Py_DecRef", "void", f.load("ptr", c.place(held, each.index)))
    f.ret(f.load("ptr", answer))


def _entry(m: Module, layout: Layout) -> None:
    """The vectorcall."""
    params = [("ptr", "self"), ("ptr", "args"), ("i64", "nargsf"), ("ptr", "names")]
    c = _Code(m, "tf_entry", "ptr", params, linkage="")
    f, (self, args, nargsf, names) = c.f, c.args
    nargs = f.binary("and", nargsf, i64((1 << 63) - 1))
    chain = c.at(self, at.F_CHAIN)
    with_names = f.cmp("ne", names, NULL)
    walk, step, run, next_one, leave = (f.block(n) for n in ("walk", "step", "run", "next", "leave"))
    f.cbr(f.binary("or", with_names, c.equal(chain, NULL)), c.no, walk)
    f.current = walk
    f.call("Py_IncRef", "void", chain)
    table = f.gep("i8", c.at(chain, layout.pointers_slot), i64(layout.bytes_data))
    frame = f.emit("ptr", f"alloca i64, {c.word(table, 0)}, align 16")
    first = c.place(table, i64(1))
    f.br(step)
    f.current = step
    cursor = Val("%cursor", "ptr")
    trace = f.load("ptr", cursor)
    try_it = f.block("try")
    f.cbr(c.equal(trace, NULL), leave, try_it)
    f.current = try_it
    f.cbr(f.call_pointer(Val("@tf_guard", "ptr"), "i1", trace, args, nargs, frame), run, next_one)
    f.current = next_one
    following = c.place(cursor, i64(1))
    f.br(step)
    step.lines.insert(0, f"  %cursor = phi ptr [ {first.ref}, %{walk.label} ], [ {following.ref}, %{next_one.label} ]")
    f.current = run
    answer = f.call_pointer(Val("@tf_run", "ptr"), "ptr", trace, args, frame)
    missed = c.equal(f.convert("ptrtoint", answer, "i64"), i64(MISSED))
    served = f.block("served")
    f.cbr(missed, leave, served)
    f.current = served
    f.store(f.add(c.word(trace, at.HITS), i64(1)), c.place(trace, i64(at.HITS)))
    f.call("Py_DecRef", "void", chain)
    f.ret(answer)
    f.current = leave
    f.call("Py_DecRef", "void", chain)
    f.br(c.no)
    f.current = c.no
    miss = c.at(self, at.F_MISS)
    gone, call = f.block("gone"), f.block("call")
    f.cbr(c.equal(miss, NULL), gone, call)
    f.current = gone
    error = f.load("ptr", Val("@PyExc_RuntimeError", "ptr"))
    f.call("PyErr_SetString", "void", error, Val("@tf_gone_message", "ptr"))
    f.ret(NULL)
    f.current = call
    f.call("Py_IncRef", "void", miss)
    answer = f.call("PyObject_Vectorcall", "ptr", miss, args, nargsf, names)
    f.call("Py_DecRef", "void", miss)
    f.ret(answer)


def _type_functions(m: Module) -> None:
    """What the heap type needs: binding as a method, and taking part in garbage collection."""
    c = _Code(m, "tf_descr_get", "ptr", [("ptr", "self"), ("ptr", "instance"), ("ptr", "owner")], linkage="")
    f, (self, instance, _) = c.f, c.args
    c.require(f.cmp("ne", instance, NULL))
    f.ret(f.call("PyMethod_New", "ptr", self, instance))
    f.current = c.no
    f.call("Py_IncRef", "void", self)
    f.ret(self)

    c = _Code(m, "tf_traverse", "i32", [("ptr", "self"), ("ptr", "visit"), ("ptr", "arg")], linkage="")
    f, (self, visit, arg) = c.f, c.args
    stopped = f.alloca("i32", align=4)
    f.store(i32(0), stopped)
    for offset in (8, at.F_DICT, at.F_MISS, at.F_CHAIN):
        held = c.at(self, offset)
        with f.when(f.cmp("ne", held, NULL)):
            f.store(f.call_pointer(visit, "i32", held, arg), stopped)
        c.require(c.equal(f.load("i32", stopped), i32(0)))
    f.ret(i32(0))
    f.current = c.no
    f.ret(f.load("i32", stopped))

    c = _Code(m, "tf_clear", "i32", [("ptr", "self")], linkage="")
    f, (self,) = c.f, c.args
    for offset in (at.F_DICT, at.F_MISS, at.F_CHAIN):
        held = c.at(self, offset)
        f.store(NULL, f.gep("i8", self, i64(offset)))
        f.call("Py_DecRef", "void", held)
    f.br(c.no)
    f.current = c.no
    f.ret(i32(0))


def entry_text(layout: Layout) -> str:
    """The module. It needs tf_array_type and tf_array_new from NumPy; the rest is Python's C-API."""
    m = Module()
    m.add_global(f"@tf_entry_settings = internal global [{at.SETTINGS_WORDS} x i64] zeroinitializer, align 64")
    message = "this compiled function was torn down"
    m.add_global(f'@tf_gone_message = private constant [{len(message) + 1} x i8] c"{message}\\00"')
    for name in ("tf_array_type", "PyFloat_Type", "PyLong_Type", "PyExc_RuntimeError"):
        m.add_global(f"@{name} = external global i8")
    for part in (_check_array, _check_arg, _guard, _make_output, _box, _result, _results, _arena, _run):
        part(m)
    _entry(m, layout)
    _type_functions(m)
    f = m.function("tf_settings", "ptr", [], "nounwind")
    f.ret(SETTINGS)
    return str(m)
