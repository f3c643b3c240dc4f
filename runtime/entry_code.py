"""The native entry, as LLVM text: one function for all compiled functions, walking the tables of `entry_layout.py`.

    tf_entry(function, args, nargs, names): for each trace of the function's chain: guards? run it : next; else `miss`

Python's lock is held but for the plan itself. The chain is held by a reference for the whole call, so whoever replaces
it meanwhile frees nothing that is in use.
"""

from __future__ import annotations

from ..backends.llvm.builder import Module, Val, i32, i64
from . import entry_layout as at
from .entry_builder import FALSE, MISSED, NULL, SETTINGS, TRUE, Code
from .entry_layout import Layout
from .entry_results import RESULT_PARTS


def _check_array(m: Module) -> None:
    """i1 tf_check_array(array, record, frame, dims, sizes): is it what the record asks; pointer, sizes -> frame."""
    c = Code(
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
    c = Code(m, "tf_check_arg", "i1", params)
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
    with f.when(f.cmp("ne", c.word(record, at.A_FRESH), i64(0))):
        c.require(f.call_pointer(Val("@tf_is_fresh", "ptr"), "i1", arg))
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


def _is_fresh(m: Module) -> None:
    """i1 tf_is_fresh(tensor): no view, or one whose root has the same `_version` object."""
    c = Code(m, "tf_is_fresh", "i1", [("ptr", "tensor")])
    f, (tensor,) = c.f, c.args
    none = c.word(SETTINGS, at.G_NONE, "ptr")
    base_slot, version_slot = c.word(SETTINGS, at.G_BASE_SLOT), c.word(SETTINGS, at.G_VERSION_SLOT)
    start, step, end = f.current, f.block("step"), f.block("end")
    f.br(step)
    f.current = step
    root = Val("%root", "ptr")
    base = f.load("ptr", f.gep("i8", root, base_slot))
    f.cbr(f.binary("or", c.equal(base, none), c.equal(base, NULL)), end, step)
    step.lines.insert(0, f"  %root = phi ptr [ {tensor.ref}, %{start.label} ], [ {base.ref}, %{step.label} ]")
    f.current = end
    versions = (f.load("ptr", f.gep("i8", t, version_slot)) for t in (tensor, root))
    c.require(c.equal(*versions))
    c.finish(TRUE, FALSE)


def _look(m: Module) -> None:
    """i1 tf_look(trace, args, frame): are arguments and states as they must be? Fills values, dims, scalars, held."""
    c = Code(m, "tf_look", "i1", [("ptr", "trace"), ("ptr", "args"), ("ptr", "frame")])
    f, (trace, args, frame) = c.f, c.args
    dims, sizes, scalars, held = (
        c.place(frame, c.word(trace, k)) for k in (at.AT_DIMS, at.AT_SIZES, at.AT_SCALARS, at.AT_HELD)
    )
    check = Val("@tf_check_arg", "ptr")
    with c.rows(trace, at.ARGS, at.ARG_WORDS) as (k, record):
        arg = f.load("ptr", c.place(args, k))
        rest = (record, frame, dims, sizes, c.place(scalars, k), c.place(held, k))
        c.require(f.call_pointer(check, "i1", arg, *rest))
    with c.rows(trace, at.LOADS, at.LOAD_WORDS) as (n, load):
        k = f.add(c.word(trace, at.ARGS), n)
        record = c.row(c.word(trace, at.ARG_TABLE, "ptr"), k, at.ARG_WORDS)
        found = f.load("ptr", f.gep("i8", c.word(load, at.L_OWNER, "ptr"), c.word(load, at.L_SLOT)))
        c.require(f.cmp("ne", found, NULL))
        rest = (record, frame, dims, sizes, c.place(scalars, k), c.place(held, k))
        c.require(f.call_pointer(check, "i1", found, *rest))
    with c.rows(trace, at.STATES, at.STATE_WORDS) as (_, state):
        array, data = c.word(state, at.S_ARRAY, "ptr"), c.word(state, at.S_DATA, "ptr")
        record = c.word(state, at.S_RECORD, "ptr")
        raw, owned, same = f.block("raw"), f.block("owned"), f.block("same")
        f.cbr(c.equal(record, NULL), owned, raw)
        f.current = raw
        looked = f.call_pointer(Val("@tf_check_array", "ptr"), "i1", array, record, frame, dims, sizes)
        f.cbr(looked, same, c.no)
        f.current = owned
        slot = f.gep("i8", c.word(state, at.S_TENSOR, "ptr"), c.word(SETTINGS, at.G_DATA_SLOT))
        f.cbr(c.equal(f.load("ptr", slot), array), same, c.no)
        f.current = same
        c.require(c.equal(c.at(array, at.ARRAY_DATA), data))
        value = c.word(state, at.S_VALUE)
        f.store(data, c.place(frame, value))
        f.store(c.word(state, at.S_NBYTES), c.place(sizes, value))
    c.finish(TRUE, FALSE)


def _ask(m: Module) -> None:
    """i1 tf_ask(check): whether a guard in Python returns True. One that raises does not hold."""
    c = Code(m, "tf_ask", "i1", [("ptr", "check")])
    f, (check,) = c.f, c.args
    answer = f.call("PyObject_CallNoArgs", "ptr", check)
    with f.when(c.equal(answer, NULL)):
        f.call("PyErr_Clear", "void")
    f.call("Py_DecRef", "void", answer)  # takes null, and True lives on
    c.require(c.equal(answer, c.word(SETTINGS, at.G_TRUE, "ptr")))
    c.finish(TRUE, FALSE)


def _guard(m: Module) -> None:
    """i1 tf_guard(trace, args, nargs, names, named, mode, frame): does this trace serve the call? nargs: all arguments, of
    which the last `named` have their names in the tuple `names`."""
    params = [("ptr", "trace"), ("ptr", "args"), ("i64", "nargs"), ("ptr", "names"), ("i64", "named"), ("i64", "mode")]
    c = Code(m, "tf_guard", "i1", [*params, ("ptr", "frame")])
    f, (trace, args, nargs, names, named, mode, frame) = c.f, c.args
    c.require(c.equal(nargs, c.word(trace, at.ARGS)))
    c.require(c.equal(named, c.word(trace, at.NAMES)))
    with c.rows(trace, at.NAMES, 1) as (k, name):
        c.require(c.equal(f.call("PyTuple_GetItem", "ptr", names, k), c.word(name, 0, "ptr")))
    wanted = c.word(trace, at.MODE)
    c.require(f.binary("or", c.equal(wanted, mode), c.equal(wanted, i64(at.ANY_MODE))))
    with c.rows(trace, at.WORDS, 2) as (_, guard):
        c.require(c.equal(f.load("i64", c.word(guard, 0, "ptr")), c.word(guard, 1)))
    dims, sizes = (c.place(frame, c.word(trace, k)) for k in (at.AT_DIMS, at.AT_SIZES))
    look = Val("@tf_look", "ptr")
    c.require(f.call_pointer(look, "i1", trace, args, frame))
    with c.rows(trace, at.SAME, 3) as (_, pair):
        one, other = (f.load("ptr", c.place(args, c.word(pair, k))) for k in (0, 1))
        c.require(c.equal(f.convert("zext", c.equal(one, other), "i64"), c.word(pair, 2)))
    with c.rows(trace, at.DICTS, 3) as (_, guard):
        found = f.call("PyDict_GetItemWithError", "ptr", c.word(guard, 0, "ptr"), c.word(guard, 1, "ptr"))
        c.require(c.equal(found, c.word(guard, 2, "ptr")))
    with c.rows(trace, at.CHECKS, 1) as (_, guard):
        c.require(f.call_pointer(Val("@tf_ask", "ptr"), "i1", c.word(guard, 0, "ptr")))
    with f.when(f.cmp("ne", c.word(trace, at.CHECKS), i64(0))):
        # Python has run: what was looked at may have changed, and the arrays are not owned yet
        c.require(f.call_pointer(look, "i1", trace, args, frame))
    with c.rows(trace, at.DISJOINT, 2) as (_, pair):
        (a, a_end), (b, b_end) = (_range(c, frame, sizes, c.word(pair, k)) for k in (0, 1))
        c.require(f.binary("or", f.cmp("ule", a_end, b), f.cmp("ule", b_end, a)))
    derive = c.word(trace, at.DERIVE, "ptr")
    with f.when(f.cmp("ne", derive, NULL)):
        c.require(c.equal(f.call_pointer(derive, "i32", dims), i32(0)))
    c.finish(TRUE, FALSE)


def _range(c: Code, frame: Val, sizes: Val, value: Val) -> tuple[Val, Val]:
    start = c.f.load("i64", c.place(frame, value))
    return start, c.f.add(start, c.f.load("i64", c.place(sizes, value)))


def _arena(m: Module) -> None:
    """ptr tf_arena(nbytes, lease): scratch for one call; null with an exception.

    The process's one arena when it is free and big enough, else G_LEASE(nbytes): a tuple of an address and whatever
    owns the memory there, which goes to `lease`.
    """
    c = Code(m, "tf_arena", "ptr", [("i64", "nbytes"), ("ptr", "lease")])
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


def _call_plan(c: Code, trace: Val, frame: Val, dims: Val, arena: Val) -> Val:
    """The status of the trace's plan; long ones run without Python's lock."""
    f = c.f
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
    return f.phi("i32", (one, locked), (two, free))


def _fill_constants(c: Code, trace: Val, frame: Val) -> None:
    with c.rows(trace, at.CONSTANTS, 2) as (_, constant):
        c.f.store(c.word(constant, 1), c.place(frame, c.word(constant, 0)))


def _end(m: Module) -> None:
    """ptr tf_end(trace, args, frame, arena): outputs, plan, results. Null with an exception; MISSED when the plan
    declines."""
    c = Code(m, "tf_end", "ptr", [("ptr", "trace"), ("ptr", "args"), ("ptr", "frame"), ("ptr", "arena")])
    f, (trace, args, frame, arena) = c.f, c.args
    dims, outputs = (c.place(frame, c.word(trace, k)) for k in (at.AT_DIMS, at.AT_OUTPUTS))
    answer = f.alloca("ptr", align=8)
    f.store(NULL, answer)
    made = c.word(trace, at.OUTPUTS)
    with f.loop(i64(0), made) as each:
        f.store(NULL, c.place(outputs, each.index))
    _fill_constants(c, trace, frame)
    with c.rows(trace, at.OUTPUTS, at.OUTPUT_WORDS) as (k, record):
        array = f.call_pointer(Val("@tf_make_output", "ptr"), "ptr", record, dims)
        c.require(f.cmp("ne", array, NULL))
        f.store(array, c.place(outputs, k))
        f.store(c.at(array, at.ARRAY_DATA), c.place(frame, c.word(record, at.O_VALUE)))
    status = _call_plan(c, trace, frame, dims, arena)
    done, declined = f.block("done"), f.block("declined")
    f.cbr(c.equal(status, i32(0)), done, declined)
    f.current = declined
    f.store(f.convert("inttoptr", i64(MISSED), "ptr"), answer)
    f.br(c.no)
    f.current = done
    c.require(f.call_pointer(Val("@tf_count_writes", "ptr"), "i1", trace, args))
    f.store(f.call_pointer(Val("@tf_results", "ptr"), "ptr", trace, args, outputs), answer)
    f.br(c.no)
    f.current = c.no  # the way out for all: lets everything go (Py_DecRef takes null)
    with f.loop(i64(0), made) as each:
        f.call("Py_DecRef", "void", f.load("ptr", c.place(outputs, each.index)))
    f.ret(f.load("ptr", answer))


def _run(m: Module) -> None:
    """ptr tf_run(trace, args, frame): finds the ending, if the trace has several, and runs it with an arena and what was
    looked at held. Null with an exception; MISSED where the call is declined."""
    c = Code(m, "tf_run", "ptr", [("ptr", "trace"), ("ptr", "args"), ("ptr", "frame")])
    f, (trace, args, frame) = c.f, c.args
    dims, held = (c.place(frame, c.word(trace, k)) for k in (at.AT_DIMS, at.AT_HELD))
    answer = f.alloca("ptr", align=8)
    lease = f.alloca("ptr", align=8)
    f.store(NULL, answer)
    f.store(NULL, lease)
    holds = c.word(trace, at.HOLDS)
    # owned from here on: someone else may rebind a tensor's data while other threads run
    with f.loop(i64(0), holds) as each:
        f.call("Py_IncRef", "void", f.load("ptr", c.place(held, each.index)))
    slot = c.word(trace, at.ARENA_DIM)
    size = f.select(f.cmp("slt", slot, i64(0)), c.place(trace, i64(at.ARENA)), c.place(dims, slot))
    arena = f.call_pointer(Val("@tf_arena", "ptr"), "ptr", f.load("i64", size), lease)
    c.require(f.cmp("ne", arena, NULL))
    one, several, ending, declined, done = (f.block(n) for n in ("one", "several", "ending", "declined", "done"))
    end = Val("@tf_end", "ptr")
    f.cbr(c.equal(c.word(trace, at.ENDINGS), i64(0)), one, several)
    f.current = one
    f.store(f.call_pointer(end, "ptr", trace, args, frame, arena), answer)
    f.br(done)
    f.current = several
    _fill_constants(c, trace, frame)
    status = _call_plan(c, trace, frame, dims, arena)
    f.cbr(f.cmp("slt", status, i32(0)), declined, ending)
    f.current = declined
    f.store(f.convert("inttoptr", i64(MISSED), "ptr"), answer)
    f.br(done)
    f.current = ending
    chosen = f.load("ptr", c.place(c.word(trace, at.ENDING_TABLE, "ptr"), f.convert("sext", status, "i64")))
    f.store(f.add(c.word(chosen, at.HITS), i64(1)), c.place(chosen, i64(at.HITS)))
    f.store(f.call_pointer(end, "ptr", chosen, args, frame, arena), answer)
    f.br(done)
    f.current = done
    with f.when(c.equal(arena, c.word(SETTINGS, at.G_ARENA_ADDRESS, "ptr"))):
        f.store(i64(0), c.place(SETTINGS, i64(at.G_ARENA_BUSY)))
    f.br(c.no)
    f.current = c.no  # the way out for all: lets everything go (Py_DecRef takes null)
    f.call("Py_DecRef", "void", f.load("ptr", lease))
    with f.loop(i64(0), holds) as each:
        f.call("Py_DecRef", "void", f.load("ptr", c.place(held, each.index)))
    f.ret(f.load("ptr", answer))


def _entry(m: Module, layout: Layout) -> None:
    """The vectorcall."""
    params = [("ptr", "self"), ("ptr", "args"), ("i64", "nargsf"), ("ptr", "names")]
    c = Code(m, "tf_entry", "ptr", params, linkage="")
    f, (self, args, nargsf, names) = c.f, c.args
    nargs = f.binary("and", nargsf, i64((1 << 63) - 1))
    chain = c.at(self, at.F_CHAIN)
    counted = f.alloca("i64", align=8)
    f.store(i64(0), counted)
    walk, step, run, next_one, leave = (f.block(n) for n in ("walk", "step", "run", "next", "leave"))
    f.cbr(c.equal(chain, NULL), c.no, walk)
    f.current = walk
    with f.when(f.cmp("ne", names, NULL)):
        f.store(f.call("PyTuple_Size", "i64", names), counted)
    named = f.load("i64", counted)
    given = f.add(nargs, named)
    walk = f.current
    f.call("Py_IncRef", "void", chain)
    table = f.gep("i8", c.at(chain, layout.pointers_slot), i64(layout.bytes_data))
    frame = f.emit("ptr", f"alloca i64, {c.word(table, 0)}, align 16")
    mode = f.convert("ptrtoint", f.call("PyThread_tss_get", "ptr", c.word(SETTINGS, at.G_MODE_KEY, "ptr")), "i64")
    first = c.place(table, i64(1))
    f.br(step)
    f.current = step
    cursor = Val("%cursor", "ptr")
    trace = f.load("ptr", cursor)
    try_it = f.block("try")
    f.cbr(c.equal(trace, NULL), leave, try_it)
    f.current = try_it
    serves = f.call_pointer(Val("@tf_guard", "ptr"), "i1", trace, args, given, names, named, mode, frame)
    f.cbr(serves, run, next_one)
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


def _set_mode(m: Module) -> None:
    """ptr tf_set_mode(self, number): the body of `entry.set_mode`, a builtin function."""
    c = Code(m, "tf_set_mode", "ptr", [("ptr", "self"), ("ptr", "number")], linkage="")
    f, (_, number) = c.f, c.args
    mode = f.convert("inttoptr", f.call("PyLong_AsLongLong", "i64", number), "ptr")
    c.require(c.equal(f.call("PyErr_Occurred", "ptr"), NULL))
    c.require(c.equal(f.call("PyThread_tss_set", "i32", c.word(SETTINGS, at.G_MODE_KEY, "ptr"), mode), i32(0)))
    none = c.word(SETTINGS, at.G_NONE, "ptr")
    f.call("Py_IncRef", "void", none)
    f.ret(none)
    f.current = c.no
    with f.when(c.equal(f.call("PyErr_Occurred", "ptr"), NULL)):
        f.call("PyErr_NoMemory", "ptr")
    f.ret(NULL)


def _type_functions(m: Module) -> None:
    """What the heap type needs: binding as a method, and taking part in garbage collection."""
    c = Code(m, "tf_descr_get", "ptr", [("ptr", "self"), ("ptr", "instance"), ("ptr", "owner")], linkage="")
    f, (self, instance, _) = c.f, c.args
    c.require(f.cmp("ne", instance, NULL))
    f.ret(f.call("PyMethod_New", "ptr", self, instance))
    f.current = c.no
    f.call("Py_IncRef", "void", self)
    f.ret(self)

    c = Code(m, "tf_traverse", "i32", [("ptr", "self"), ("ptr", "visit"), ("ptr", "arg")], linkage="")
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

    c = Code(m, "tf_clear", "i32", [("ptr", "self")], linkage="")
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
    for part in (_is_fresh, _check_array, _check_arg, _look, _ask, _guard, *RESULT_PARTS, _arena, _end, _run):
        part(m)
    _entry(m, layout)
    _type_functions(m)
    _set_mode(m)
    f = m.function("tf_settings", "ptr", [], "nounwind")
    f.ret(SETTINGS)
    return str(m)
