"""A small builder of LLVM assembly: typed SSA values, blocks that stay open, and loops as context managers.

llvmlite's own `ir` layer builds the same text with an object per instruction and per constant lane, which costs more
time than LLVM spends on a kernel. Here a value is a reference and a type, both strings, and an instruction one
formatted line. Blocks stay open until the end, so that code can be put into a loop's preheader at any time.
"""

from __future__ import annotations

import struct
from contextlib import contextmanager
from typing import Iterable, Iterator, NamedTuple, Sequence

import numpy as np

from ...ir.dtypes import DType


class Val(NamedTuple):
    """An SSA value or constant: how the text refers to it, and its LLVM type."""

    ref: str
    type: str

    def __str__(self) -> str:
        return f"{self.type} {self.ref}"


SCALAR_TYPES = {
    "bool": "i1", "int8": "i8", "uint8": "i8", "int16": "i16", "uint16": "i16", "int32": "i32", "uint32": "i32",
    "int64": "i64", "uint64": "i64", "float16": "half", "bfloat16": "bfloat", "float32": "float", "float64": "double",
}  # fmt: skip
# LLVM splits masked accesses to narrow floats into code that calls compiler-rt, where the target lacks them
MEMORY_TYPES = {**SCALAR_TYPES, "bool": "i8", "float16": "i16", "bfloat16": "i16"}
FLOAT_TYPES = ("half", "bfloat", "float", "double")


def scalar_type(dtype: DType) -> str:
    """The type of one element in registers (bool: i1)."""
    return SCALAR_TYPES[dtype.name]


def memory_type(dtype: DType) -> str:
    """The type of one element in memory (bool: i8, narrow floats: their bits)."""
    return MEMORY_TYPES[dtype.name]


def vec(type: str, lanes: int) -> str:
    return type if lanes == 1 else f"<{lanes} x {type}>"


def lanes_of(type: str) -> int:
    return int(type[1 : type.index(" ")]) if type[0] == "<" else 1


def element_of(type: str) -> str:
    return type[type.index("x ") + 2 : -1] if type[0] == "<" else type


def is_float(type: str) -> bool:
    return element_of(type) in FLOAT_TYPES


def suffix(type: str) -> str:
    """The mangling of a type in intrinsic names: v16f32, i64, p0."""
    element = {"half": "f16", "bfloat": "bf16", "float": "f32", "double": "f64", "ptr": "p0"}.get(
        element_of(type), element_of(type)
    )
    return f"v{lanes_of(type)}{element}" if type[0] == "<" else element


def literal(value: bool | int | float, type: str) -> Val:
    """A constant of a scalar or vector type (splat)."""
    element = element_of(type)
    if element == "float":
        with np.errstate(over="ignore"):
            text = "0x%016X" % struct.unpack("<Q", struct.pack("<d", float(np.float32(value))))[0]
    elif element == "double":
        text = "0x%016X" % struct.unpack("<Q", struct.pack("<d", float(value)))[0]
    elif element == "half":
        with np.errstate(over="ignore"):
            text = "0xH%04X" % int(np.float16(value).view(np.uint16))
    elif element == "bfloat":
        import ml_dtypes

        text = "0xR%04X" % int(np.asarray(value, ml_dtypes.bfloat16).view(np.uint16))
    elif element == "i1":
        text = "true" if value else "false"
    elif element == "ptr":
        text = "null"
    else:
        bits = int(element[1:])
        number = int(value) & ((1 << bits) - 1)
        text = str(number - (1 << bits) if number >> (bits - 1) else number)
    if type[0] == "<":
        return Val(
            "zeroinitializer" if value == 0 and not _is_negative_zero(value) else f"splat ({element} {text})", type
        )
    return Val(text, type)


def _is_negative_zero(value: bool | int | float) -> bool:
    return isinstance(value, float) and struct.pack("<d", value)[7] == 0x80


def i64(n: int) -> Val:
    return Val(str(n), "i64")


def i32(n: int) -> Val:
    return Val(str(n), "i32")


def vector_of(values: Sequence[int], element: str = "i32") -> Val:
    """A constant vector of integers."""
    return Val("<" + ", ".join(f"{element} {v}" for v in values) + ">", vec(element, len(values)))


class Block:
    __slots__ = ("label", "lines", "terminator")

    def __init__(self, label: str):
        self.label, self.lines, self.terminator = label, [], ""


class Loop:
    """A loop under construction: `index`, the values `carried` into this round, `next` for the next, `preheader`.

    After the `with` block, `results` holds the carried values after the last round.
    """

    def __init__(self, index: Val, carried: list[Val], preheader: Block, body: Block):
        self.index, self.carried, self.preheader, self.body = index, carried, preheader, body
        self.next: list[Val] = list(carried)
        self.results: list[Val] = []


class Module:
    """One LLVM module under construction. `str()` is its text."""

    def __init__(self, triple: str = "", data_layout: str = ""):
        self.triple, self.data_layout = triple, data_layout
        self.functions: list[Function] = []
        self.globals: list[str] = []
        self._declared: dict[str, str] = {}

    def declare(self, name: str, ret: str, args: Sequence[str], attrs: str = "", vararg: bool = False) -> str:
        """Declares an external function or intrinsic once; returns @name."""
        if name not in self._declared:
            listed = ", ".join([*args, "..."] if vararg else args)
            self._declared[name] = f"declare {ret} @{name}({listed}) {attrs}".rstrip()
        return f"@{name}"

    def add_global(self, line: str) -> None:
        self.globals.append(line)

    def function(
        self, name: str, ret: str, params: Sequence[tuple[str, str]], attrs: str = "", linkage: str = ""
    ) -> "Function":
        """params: (type with parameter attributes, name)."""
        f = Function(self, name, ret, params, attrs, linkage)
        self.functions.append(f)
        return f

    def __str__(self) -> str:
        head = [f'target datalayout = "{self.data_layout}"'] if self.data_layout else []
        head += [f'target triple = "{self.triple}"'] if self.triple else []
        return "\n".join([*head, *self.globals, *self._declared.values(), *map(str, self.functions)]) + "\n"


class Function:
    """A function body; also the builder: instructions go to the end of the current block."""

    def __init__(
        self, module: Module, name: str, ret: str, params: Sequence[tuple[str, str]], attrs: str, linkage: str
    ):
        self.module, self.name, self.ret_type, self.attrs, self.linkage = module, name, ret, attrs, linkage
        self.params = [(t, n) for t, n in params]
        self.args = [Val(f"%{n}", t.split(" ")[0] if t[0] != "<" else t[: t.index(">") + 1]) for t, n in params]
        self._count = 0
        self._split: dict[Block, Block] = {}
        self.blocks: list[Block] = []
        self.entry = self.block("entry")
        self.current = self.entry

    def __str__(self) -> str:
        signature = ", ".join(f"{t} %{n}" for t, n in self.params)
        out = [
            f"define {self.linkage + ' ' if self.linkage else ''}{self.ret_type} @{self.name}({signature}) {self.attrs} {{"
        ]
        for b in self.blocks:
            out.append(f"{b.label}:")
            out += b.lines
            out.append(b.terminator or "  unreachable")
        out.append("}")
        return "\n".join(out)

    # ---- blocks
    def block(self, label: str = "b") -> Block:
        """A new empty block; does not move the insertion point."""
        self._count += 1
        b = Block(f"{label}{self._count}" if self.blocks else label)
        self.blocks.append(b)
        return b

    @contextmanager
    def at(self, block: Block) -> Iterator[None]:
        """Instructions inside go to the end of `block` (before its terminator). If they branch, `block` is split: its
        terminator moves to the last part, and so does what comes later."""
        saved, start = self.current, self.tail(block)
        terminator = start.terminator
        self.current = start
        try:
            yield
        finally:
            if self.current is not start:
                self.current.terminator = terminator
                self._split[start] = self.current
            self.current = saved

    def tail(self, block: Block) -> Block:
        """The last part of a block: itself, unless code with branches was put at its end."""
        while block in self._split:
            block = self._split[block]
        return block

    def emit(self, type: str, text: str) -> Val:
        """Appends `%n = text` and returns the value."""
        self._count += 1
        ref = f"%v{self._count}"
        self.current.lines.append(f"  {ref} = {text}")
        return Val(ref, type)

    def do(self, text: str) -> None:
        """Appends an instruction without result."""
        self.current.lines.append("  " + text)

    def br(self, target: Block) -> None:
        self.current.terminator = f"  br label %{target.label}"

    def cbr(self, condition: Val, yes: Block, no: Block, weights: tuple[int, int] | None = None) -> None:
        self.current.terminator = f"  br i1 {condition.ref}, label %{yes.label}, label %{no.label}"

    def ret(self, value: Val | None = None) -> None:
        self.current.terminator = f"  ret {value}" if value else "  ret void"

    def phi(self, type: str, *incoming: tuple[Val, Block]) -> Val:
        listed = ", ".join(f"[ {v.ref}, %{b.label} ]" for v, b in incoming)
        return self.emit(type, f"phi {type} {listed}")

    # ---- arithmetic
    def binary(self, op: str, x: Val, y: Val) -> Val:
        return self.emit(x.type, f"{op} {x.type} {x.ref}, {y.ref}")

    def add(self, x: Val, y: Val) -> Val:
        if y.ref == "0":
            return x
        if x.ref == "0":
            return y
        return self.binary("fadd" if is_float(x.type) else "add", x, y)

    def sub(self, x: Val, y: Val) -> Val:
        return x if y.ref == "0" else self.binary("fsub" if is_float(x.type) else "sub", x, y)

    def mul(self, x: Val, y: Val) -> Val:
        if not is_float(x.type):
            if y.ref == "1":
                return x
            if x.ref == "1":
                return y
            if x.ref == "0" or y.ref == "0":
                return literal(0, x.type)
        return self.binary("fmul" if is_float(x.type) else "mul", x, y)

    def fma(self, x: Val, y: Val, z: Val) -> Val:
        return self.intrinsic("fma", x.type, x, y, z)

    def cmp(self, predicate: str, x: Val, y: Val) -> Val:
        """predicate: an icmp (slt, eq, ...) or fcmp (olt, une, ...) one."""
        kind = "fcmp" if is_float(x.type) else "icmp"
        return self.emit(vec("i1", lanes_of(x.type)), f"{kind} {predicate} {x.type} {x.ref}, {y.ref}")

    def select(self, condition: Val, x: Val, y: Val) -> Val:
        return self.emit(x.type, f"select {condition}, {x}, {y}")

    def convert(self, op: str, x: Val, type: str) -> Val:
        """sext, zext, trunc, fpext, fptrunc, sitofp, uitofp, bitcast, ptrtoint, inttoptr."""
        return x if x.type == type else self.emit(type, f"{op} {x} to {type}")

    def intrinsic(self, name: str, ret: str, *args: Val, overload: str | None = None) -> Val:
        """Calls llvm.<name>.<overload> (the result type by default)."""
        full = f"llvm.{name}.{suffix(ret) if overload is None else overload}".rstrip(".")
        return self.call(full, ret, *args)

    def call(self, name: str, ret: str, *args: Val, vararg_from: int | None = None) -> Val:
        """Calls an external function by name, declaring it. `vararg_from`: operands from there on are variadic."""
        fixed = [a.type for a in args[:vararg_from]]
        self.module.declare(name, ret, fixed, vararg=vararg_from is not None)
        listed = ", ".join(map(str, args))
        callee = f"{ret} ({', '.join([*fixed, '...'])})" if vararg_from is not None else ret
        if ret == "void":
            self.do(f"call void @{name}({listed})" if vararg_from is None else f"call {callee} @{name}({listed})")
            return Val("", "void")
        return self.emit(ret, f"call {callee} @{name}({listed})")

    def call_pointer(self, pointer: Val, ret: str, *args: Val) -> Val:
        listed = ", ".join(map(str, args))
        if ret == "void":
            self.do(f"call void {pointer.ref}({listed})")
            return Val("", "void")
        return self.emit(ret, f"call {ret} {pointer.ref}({listed})")

    def splat(self, x: Val, lanes: int) -> Val:
        """A vector of `lanes` copies."""
        if lanes == 1:
            return x
        type = vec(x.type, lanes)
        if not x.ref.startswith("%"):
            return Val(f"splat ({x})", type)
        if x.type in ("half", "bfloat"):  # some targets move these in floats, and convert them by calls
            return self.convert("bitcast", self.splat(self.convert("bitcast", x, "i16"), lanes), type)
        one = self.emit(type, f"insertelement {type} poison, {x}, i64 0")
        return self.emit(type, f"shufflevector {one}, {type} poison, <{lanes} x i32> zeroinitializer")

    def shuffle(self, x: Val, y: Val | None, mask: Sequence[int]) -> Val:
        type = vec(element_of(x.type), len(mask))
        second = y.ref if y else "poison"
        return self.emit(type, f"shufflevector {x}, {x.type} {second}, {vector_of(mask)}")

    def extract(self, x: Val, lane: int) -> Val:
        return self.emit(element_of(x.type), f"extractelement {x}, i64 {lane}")

    def insert(self, x: Val, value: Val, lane: int) -> Val:
        return self.emit(x.type, f"insertelement {x}, {value}, i64 {lane}")

    # ---- memory
    def gep(self, element: str, base: Val, index: Val) -> Val:
        """base + index * sizeof(element)."""
        return base if index.ref == "0" else self.emit("ptr", f"getelementptr inbounds {element}, {base}, {index}")

    def load(self, type: str, pointer: Val, align: int = 0, extra: str = "") -> Val:
        return self.emit(type, f"load {type}, {pointer}" + (f", align {align}" if align else "") + extra)

    def store(self, value: Val, pointer: Val, align: int = 0, extra: str = "") -> None:
        self.do(f"store {value}, {pointer}" + (f", align {align}" if align else "") + extra)

    def alloca(self, type: str, count: int = 1, align: int = 64) -> Val:
        """Stack memory, always in the entry block."""
        with self.at(self.entry):
            return self.emit("ptr", f"alloca {type}, i64 {count}, align {align}")

    # ---- control flow
    @contextmanager
    def loop(
        self,
        start: Val,
        stop: Val,
        step: Val = Val("1", "i64"),
        carried: Iterable[Val] = (),
        at_least_once: bool = False,
    ) -> Iterator[Loop]:
        """for index in range(start, stop, step), step > 0. Values in `carried` travel from round to round:
        set `loop.next` before the block ends; read `loop.results` after it."""
        initial = list(carried)
        before = self.current
        known = start.ref.lstrip("-").isdigit() and stop.ref.lstrip("-").isdigit()
        once = at_least_once or known and int(start.ref) < int(stop.ref)
        guard = None if once else self.cmp("slt", start, stop)
        preheader, body, after = self.block("pre"), self.block("body"), self.block("after")
        if guard is None:
            self.br(preheader)
        else:
            self.cbr(guard, preheader, after)
        self.current = preheader
        self.br(body)
        self.current = body
        self._count += 1
        index = Val(f"%i{self._count}", start.type)
        phis: list[Val] = []
        for v in initial:
            self._count += 1
            phis.append(Val(f"%c{self._count}", v.type))
        one = Loop(index, list(phis), preheader, body)
        yield one
        latch = self.current
        following = self.add(index, step)
        again = self.cmp("slt", following, stop)
        self.cbr(again, body, after)
        entry = self.tail(preheader)
        head = [
            f"  {index.ref} = phi {index.type} [ {start.ref}, %{entry.label} ], [ {following.ref}, %{latch.label} ]"
        ]
        for p, v0, v1 in zip(phis, initial, one.next, strict=True):
            head.append(f"  {p.ref} = phi {p.type} [ {v0.ref}, %{entry.label} ], [ {v1.ref}, %{latch.label} ]")
        body.lines[:0] = head
        self.current = after
        # `after` was created before the inner blocks: keep textual order readable
        self.blocks.remove(after)
        self.blocks.append(after)
        if guard is None:
            one.results = list(one.next)
        else:
            one.results = [self.phi(v0.type, (v0, self.tail(before)), (v1, latch)) for v0, v1 in zip(initial, one.next)]

    @contextmanager
    def when(self, condition: Val) -> Iterator[None]:
        """if condition: ..."""
        yes, after = self.block("then"), self.block("endif")
        self.cbr(condition, yes, after)
        self.current = yes
        yield
        self.br(after)
        self.current = after
        self.blocks.remove(after)
        self.blocks.append(after)
