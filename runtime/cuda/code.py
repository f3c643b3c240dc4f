"""Machine code of kernels: from this machine's cache, or compiled now, many at once.

What is kept is all that launches need, so a process that finds its kernels there never imports Triton.
"""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from ...backends.triton.emit import lower_kernel
from ...backends.triton.lowered import TritonKernel
from ...ir import dim
from ...ir.dim import DimLike
from ...ir.dim_text import parse as parse_dim
from ...ir.kernel import Kernel, Schedule
from ...ir.kernel_text import format_kernel, format_schedule
from ...ir.target import Target
from .. import knobs
from ..cache import disk_cache


@dataclass(frozen=True, slots=True)
class Work:
    """A kernel that is wanted. unaligned: its parameters that may begin anywhere, not at a multiple of 16 bytes."""

    kernel: Kernel
    schedule: Schedule
    unaligned: frozenset[str] = frozenset()

    @property
    def text(self) -> str:
        """What tells kernels apart."""
        return f"{format_kernel(self.kernel)}\n{format_schedule(self.schedule)}\n{sorted(self.unaligned)}"

    def lowered(self, target: Target) -> TritonKernel:
        """Its source. What the hardware copies block by block has to be aligned, so persistent programs do without."""
        aligned = not self.unaligned or self.kernel.anchor is None
        chosen = self.schedule if aligned else replace(self.schedule, persistent=False)
        return lower_kernel(self.kernel, chosen, target, unaligned=self.unaligned)


@dataclass(frozen=True, slots=True)
class Image:
    """What a device loads: a cubin, or PTX, with the kernel `symbol`. threads: of a program. shared: bytes of shared
    memory of a program. scratch: bytes of device memory that each program needs besides. parameters: see `Function`."""

    data: bytes
    symbol: str
    threads: int
    shared: int
    scratch: int
    parameters: int


@dataclass(frozen=True, slots=True)
class KernelCode:
    """A kernel as it is launched: names and element sizes of its buffers, names of the sizes that it is given, its
    programs over those sizes. `image`: machine code; `source`: Triton's, where it is interpreted."""

    name: str
    buffers: tuple[tuple[str, int], ...]
    dims: tuple[str, ...]
    grid: tuple[DimLike, ...]
    image: Image | None = None
    source: TritonKernel | None = None

    def programs(self, sizes: Any) -> tuple[int, int, int]:
        """The grid for these sizes, of three dimensions."""
        x, y, z = (*(dim.evaluate(n, sizes) for n in self.grid), 1, 1)[:3]
        return x, y, z


@dataclass(slots=True)
class Counts:
    """What loading has taken: kernels that came from the disk cache, that were compiled, and seconds of that; bytes of
    machine code."""

    hits: int = 0
    compiled: int = 0
    seconds: float = 0.0
    code_bytes: int = 0


@functools.cache
def generator() -> str:
    """What the code of a kernel depends on besides the kernel: the code generator's own source, and Triton's version."""
    root = Path(__file__).resolve().parents[2]
    files = sorted(f for part in ("backends/triton", "ir") for f in (root / part).rglob("*.py"))
    digest = hashlib.sha256()
    for f in (*files, Path(__file__).resolve()):
        digest.update(f.read_bytes())
    return f"{digest.hexdigest()} triton {metadata.version('triton')}"


def interpreted(work: Work, target: Target) -> KernelCode:
    """A kernel for the interpreter."""
    return _code(work.lowered(target), None)


def machine_code(
    work: Sequence[Work], target: Target, counts: Counts, breathe: Callable[[], None] = lambda: None
) -> list[KernelCode]:
    """The code of each kernel. breathe: called between kernels; what it raises ends it."""
    disk = disk_cache(target.key)
    keys = [_key(w.text, target) for w in work]
    found: dict[str, KernelCode] = {}
    missing: dict[str, TritonKernel] = {}
    for key, w in zip(keys, work):
        if key in found or key in missing:
            continue
        stored = disk.get(key)
        code = None if stored is None else _unpack(stored)
        if code is None:
            missing[key] = w.lowered(target)
        else:
            found[key] = code
            counts.hits += 1
    if missing:
        from .compiling import compile_images

        start = time.perf_counter()
        images = compile_images(list(missing.values()), int(target.cpu.removeprefix("sm_")), breathe)
        for (key, lowered), image in zip(missing.items(), images, strict=True):
            found[key] = _code(lowered, image)
            disk.put(key, _pack(found[key]))
        counts.seconds += time.perf_counter() - start
        counts.compiled += len(missing)
    counts.code_bytes += sum(len(c.image.data) for c in found.values() if c.image)
    return [found[key] for key in keys]


def _key(text: str, target: Target) -> str:
    return hashlib.sha256(f"{generator()}\n{knobs.key()}\n{target.key}\n{text}".encode()).hexdigest()


def _code(lowered: TritonKernel, image: Image | None) -> KernelCode:
    buffers = tuple((name, dtype.itemsize) for name, dtype in lowered.buffers)
    dims = tuple(map(str, lowered.dims))
    return KernelCode(lowered.name, buffers, dims, lowered.grid, image, None if image else lowered)


def _pack(code: KernelCode) -> bytes:
    """A cache entry: one line of JSON, then the image."""
    image = code.image
    assert image is not None
    head = {
        "name": code.name,
        "buffers": code.buffers,
        "dims": code.dims,
        "grid": [str(n) for n in code.grid],
        "image": {k: v for k, v in asdict(image).items() if k != "data"},
    }
    return json.dumps(head).encode() + b"\n" + image.data


def _unpack(entry: bytes) -> KernelCode | None:
    try:
        head, _, data = entry.partition(b"\n")
        fields = json.loads(head)
        buffers = tuple((str(name), int(size)) for name, size in fields["buffers"])
        grid = tuple(map(parse_dim, fields["grid"]))
        return KernelCode(str(fields["name"]), buffers, tuple(fields["dims"]), grid, Image(data, **fields["image"]))
    except (ValueError, KeyError, TypeError):
        return None
