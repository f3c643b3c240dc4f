"""The part of the native entry behind the plan: new arrays and Tensors, results, and what else a call changes."""

from __future__ import annotations

from ..backends.llvm.builder import Block, Module, Val, i32, i64
from . import entry_layout as at
from .entry_builder import FALSE, NULL, SETTINGS, TRUE, Code


def _make_output(m: Module) -> None:
    """ptr tf_make_output(record, dims): a new array, or null with an exception. Big ones come from `memory.empty`."""
    c = Code(m, "tf_make_output", "ptr", [("ptr", "rec"), ("ptr", "dims")])
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
    c = Code(m, "tf_box", "ptr", [("ptr", "array")])
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
    c = Code(m, "tf_result", "ptr", [("ptr", "rec"), ("ptr", "args"), ("ptr", "outputs"), ("ptr", "earlier")])
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
    c = Code(m, "tf_results", "ptr", [("ptr", "trace"), ("ptr", "args"), ("ptr", "outputs")])
    f, (trace, args, outputs) = c.f, c.args
    single, several = f.block("single"), f.block("several")
    structure = c.word(trace, at.STRUCTURE)
    lone = f.binary("and", c.equal(structure, i64(at.SINGLE)), c.equal(c.word(trace, at.EFFECTS), i64(0)))
    f.cbr(lone, single, several)
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
    nothing = c.word(SETTINGS, at.G_NONE, "ptr")
    with c.rows(trace, at.EFFECTS, at.EFFECT_WORDS) as (_, effect):
        number = c.word(effect, at.E_RESULT)
        none, some, given_at = f.current, f.block("some"), f.block("given")
        f.cbr(f.cmp("slt", number, i64(0)), given_at, some)
        f.current = some
        found = f.call("PyTuple_GetItem", "ptr", everything, number)
        f.br(given_at)
        f.current = given_at
        given = f.phi("ptr", (nothing, none), (found, some))
        f.call("Py_IncRef", "void", given)
        slot = f.gep("i8", c.word(effect, at.E_OWNER, "ptr"), c.word(effect, at.E_SLOT))
        before = f.load("ptr", slot)
        f.store(given, slot)
        f.call("Py_DecRef", "void", before)
    first, whole_one, finished = f.block("first"), f.block("whole"), f.block("finished")
    listed = f"i64 {at.SINGLE}, label %{first.label} i64 {at.TUPLE}, label %{whole_one.label}"
    f.current.terminator = f"  switch {structure}, label %{finished.label} [ {listed} ]"
    f.current = first
    answer = f.call("PyTuple_GetItem", "ptr", everything, i64(0))
    f.call("Py_IncRef", "void", answer)
    f.call("Py_DecRef", "void", everything)
    f.ret(answer)
    f.current = whole_one
    answer = f.call("PyTuple_GetSlice", "ptr", everything, i64(0), c.word(trace, at.RETURNED))
    f.call("Py_DecRef", "void", everything)
    f.ret(answer)
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


def _count_writes(m: Module) -> None:
    """i1 tf_count_writes(trace, args): `_version` of every Tensor that was written, plus one. False with an exception.

    Tensors that are written together have equal numbers: they share one object.
    """
    c = Code(m, "tf_count_writes", "i1", [("ptr", "trace"), ("ptr", "args")])
    f, (trace, args) = c.f, c.args
    none = c.word(SETTINGS, at.G_NONE, "ptr")
    known, following = f.alloca("ptr", align=8), f.alloca("ptr", align=8)  # a number (owned) and the next one
    f.store(NULL, known)
    f.store(NULL, following)
    with c.rows(trace, at.VERSIONS, at.VERSION_WORDS) as (_, row):
        is_argument = c.equal(c.word(row, at.V_TENSOR), i64(0))
        place = f.select(is_argument, c.place(args, c.word(row, at.V_ARGUMENT)), c.place(row, i64(at.V_TENSOR)))
        tensor = f.load("ptr", place)
        slot = f.gep("i8", tensor, c.word(SETTINGS, at.G_VERSION_SLOT))
        old = f.load("ptr", slot)
        with f.when(f.cmp("ne", old, f.load("ptr", known))):
            unset = f.binary("or", c.equal(old, none), c.equal(old, NULL))
            count, counted, make = f.block("count"), f.block("counted"), f.current
            f.cbr(unset, counted, count)
            f.current = count
            number = f.call("PyLong_AsLongLong", "i64", old)
            f.br(counted)
            f.current = counted
            made = f.call("PyLong_FromLongLong", "ptr", f.add(f.phi("i64", (i64(0), make), (number, count)), i64(1)))
            c.require(f.cmp("ne", made, NULL))
            for cell, value in ((known, old), (following, made)):
                before = f.load("ptr", cell)
                f.store(value, cell)
                f.call("Py_DecRef", "void", before)
            f.call("Py_IncRef", "void", old)
        new = f.load("ptr", following)
        f.call("Py_IncRef", "void", new)
        f.store(new, slot)
        f.call("Py_DecRef", "void", old)
    done = f.block("done")
    f.br(done)
    f.current = done
    for cell in (known, following):
        f.call("Py_DecRef", "void", f.load("ptr", cell))
    f.ret(TRUE)
    f.current = c.no
    for cell in (known, following):
        f.call("Py_DecRef", "void", f.load("ptr", cell))
    f.ret(FALSE)


RESULT_PARTS = (_make_output, _box, _result, _results, _count_writes)
