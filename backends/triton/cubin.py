"""Reads off machine code for NVIDIA GPUs what its kernel takes. A cubin is an ELF file; its section `.nv.info` says, by
attribute, what each function needs."""

from __future__ import annotations

import struct
from collections.abc import Iterator

_SECTION = struct.Struct("<IIQQQQIIQQ")  # name, type, flags, address, offset, size, link, info, alignment, entry size
_WORDS = 4  # the format of attributes whose value is a list of words, here: a function's symbol, and a number
_REGISTERS, _STACK = 0x2F, 0x12  # EIATTR_REGCOUNT, EIATTR_MIN_STACK_SIZE: with that of the functions that it calls


def resources(cubin: bytes) -> tuple[int, int]:
    """Registers of a thread, and bytes of its stack: of the one kernel in a cubin. ValueError if this is none."""
    if cubin[:5] != b"\x7fELF\x02":
        raise ValueError("not a 64-bit ELF file")
    found: dict[int, int] = {}
    for attribute, value in _attributes(_section(cubin, b".nv.info")):
        found[attribute] = max(value, found.get(attribute, 0))
    if _REGISTERS not in found:
        raise ValueError("the cubin does not say how many registers it takes")
    return found[_REGISTERS], found.get(_STACK, 0)


def _section(elf: bytes, wanted: bytes) -> bytes:
    (table,) = struct.unpack_from("<Q", elf, 40)
    size, count, names = struct.unpack_from("<HHH", elf, 58)
    sections = [_SECTION.unpack_from(elf, table + k * size) for k in range(count)]
    for name, _, _, _, offset, length, *_ in sections:
        start = sections[names][4] + name
        if elf[start : start + len(wanted) + 1] == wanted + b"\0":
            return elf[offset : offset + length]
    raise ValueError(f"no section {wanted.decode()}")


def _attributes(info: bytes) -> Iterator[tuple[int, int]]:
    """(attribute, number) of each function."""
    at = 0
    while at < len(info):
        form, attribute, size = struct.unpack_from("<BBH", info, at)
        at += 4
        if form != _WORDS:
            continue  # the size field is the value
        if size == 8:
            yield attribute, struct.unpack_from("<II", info, at)[1]
        at += size
