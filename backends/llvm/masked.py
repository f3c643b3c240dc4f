"""Masked loads and stores of vectors."""

from __future__ import annotations

from .builder import Function, Val, element_of, i64, lanes_of, literal, suffix


def masked_load(f: Function, type: str, pointer: Val, mask: Val | None, align: int) -> Val:
    """The elements at `pointer` where `mask` holds, 0 elsewhere. Memory of the others is not touched."""
    if mask is None:
        return f.load(type, pointer, align)
    name = f"llvm.masked.load.{suffix(type)}.p0"
    f.module.declare(name, type, ["ptr", mask.type, type])
    return f.emit(type, f"call {type} @{name}(ptr align {align} {pointer.ref}, {mask}, {literal(0, type)})")


def masked_store(f: Function, value: Val, pointer: Val, mask: Val | None, align: int) -> None:
    """Writes the elements of `value` where `mask` holds."""
    if mask is None:
        f.store(value, pointer, align)
        return
    mask = _unfoldable(f, mask, element_of(value.type))
    name = f"llvm.masked.store.{suffix(value.type)}.p0"
    f.module.declare(name, "void", [value.type, "ptr", mask.type])
    f.do(f"call void @{name}({value}, ptr align {align} {pointer.ref}, {mask})")


def _unfoldable(f: Function, mask: Val, element: str) -> Val:
    """A mask of which LLVM does not know that it is constant, for elements that may be truncated wider ones.

    LLVM 22 turns a masked store of truncated elements under a constant mask of one lane into a store of that element as
    it was before: it overwrites what comes after. Threads have numbers, which only we know (a phase's last argument).
    """
    if element not in ("i8", "i16", "half", "bfloat"):
        return mask
    live = f.cmp("sge", f.args[4], i64(0))
    return f.binary("and", mask, f.splat(live, lanes_of(mask.type)))
