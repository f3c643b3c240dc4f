"""LLVM text to relocatable objects, and objects to code in memory.

An object is position-independent machine code without absolute addresses: it can be kept on disk and linked again by
another process. `link` puts the objects of one plan into one MCJIT engine, which owns the memory of the code.
"""

from __future__ import annotations

import ctypes
import struct
import sys
import threading
from collections.abc import Callable, Iterable
from functools import cache, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from ...ir.target import Target

# What the code generator may leave undefined in an object: the pool, and the calls LLVM makes up for llvm.mem*.
ALLOWED_UNDEFINED = frozenset({"tf_parallel", "memcpy", "memset", "memmove", "memcmp", "bcmp"})


class CompileError(RuntimeError):
    """LLVM refused a module: an error in code generation, not in the user's program. Carries the text."""

    def __init__(self, message: str, text: str):
        super().__init__(message)
        self.text = text


class LinkError(RuntimeError):
    """An object refers to symbols that nobody provides, or is no object of this machine."""


_lock = threading.Lock()
_initialized: set[str] = set()
_P = ParamSpec("_P")
_R = TypeVar("_R")


def _uninterrupted(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Runs `function` in a thread of its own when the main thread calls it: Ctrl-C arrives in the main thread only, and
    in the middle of llvmlite's bookkeeping it would make things be freed twice. The caller is interrupted at once."""

    @wraps(function)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if threading.current_thread() is not threading.main_thread():
            return function(*args, **kwargs)
        results: list[_R] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                results.append(function(*args, **kwargs))
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=work, name="tracefuse-llvm")
        try:
            thread.start()
        except RuntimeError:  # the interpreter is shutting down
            return function(*args, **kwargs)
        thread.join()
        if errors:
            raise errors.pop()
        return results.pop()

    return run


def _llvm(triple: str = "") -> Any:
    """llvmlite.binding with the code generators for `triple` (default: this machine) registered."""
    import llvmlite.binding as llvm

    arch = triple.split("-", 1)[0]
    with _lock:
        if "" not in _initialized:
            llvm.initialize_native_target()
            llvm.initialize_native_asmprinter()
            _initialized.add("")
            _initialized.add(llvm.get_default_triple().split("-", 1)[0])
        if arch not in _initialized:
            llvm.initialize_all_targets()
            llvm.initialize_all_asmprinters()
            _initialized.add(arch)
    return llvm


# ---- targets


def _cache_bytes(level: int, default: int) -> int:
    """Bytes of this machine's data cache of one core at `level`; `default` where the system does not say."""
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            if (index / "level").read_text().strip() != str(level):
                continue
            if (index / "type").read_text().strip() == "Instruction":
                continue
            size = (index / "size").read_text().strip()
            return int(size.rstrip("KM")) * {"K": 1 << 10, "M": 1 << 20}.get(size[-1], 1)
        except (OSError, ValueError):
            continue
    return default


@cache
def host_target(knob: str = "") -> Target:
    """This machine as a Target. `knob`: "" for its best, or the class to use instead: avx512, avx2, neon, scalar.

    Raises ValueError for an unknown class or one that this CPU does not have.
    """
    llvm = _llvm()
    triple = llvm.get_process_triple()
    arch = triple.split("-", 1)[0]
    cpu = llvm.get_host_cpu_name()
    features = llvm.get_host_cpu_features()
    have = ["scalar"]
    if arch == "x86_64":
        if features.get("avx2") and features.get("fma"):
            have.append("avx2")
        if all(features.get(f"avx512{part}") for part in ("f", "vl", "bw", "dq")):
            have.append("avx512")
    elif arch in ("aarch64", "arm64"):
        have.append("neon")
    isa = knob or have[-1]
    if isa not in have:
        raise ValueError(f"TRACEFUSE_TARGET={knob!r}: this CPU ({cpu}) offers {', '.join(have)}")
    l1, l2 = _cache_bytes(1, 32 << 10), _cache_bytes(2, 1 << 20)
    best = isa == have[-1]
    if isa == "avx512":
        return Target(isa, triple, cpu, features.flatten(), 64, 32, l1, l2, masked=True)
    if isa == "avx2":
        own = (cpu, features.flatten()) if best else ("haswell", "")
        return Target(isa, triple, *own, 32, 16, l1, l2)
    if isa == "neon":
        return Target(isa, triple, cpu, features.flatten(), 16, 32, l1, l2)
    return Target(isa, triple, "x86-64" if arch == "x86_64" else "generic", "", 16, 16, l1, l2)


def _machine(llvm: Any, target: Target, opt: int, jit: bool = False) -> Any:
    """A TargetMachine of its own: LLVM's are not safe to share between threads or engines."""
    return llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=opt, reloc="pic", codemodel="default", jit=jit
    )


# ---- compiling


def _optimize(llvm: Any, module: Any, machine: Any, opt: int) -> None:
    """The middle end. Kernels come with explicit vectors, so the vectorizers would only cost time.

    Below 3 it is a short list: on a kernel of 500 instructions it takes 0.8 ms, LLVM's own pipeline 6.5 ms (and
    llvmlite loses some 100 kB of memory for each run of that one), for the same machine code.
    """
    tuning = llvm.create_pipeline_tuning_options(speed_level=2)
    tuning.loop_vectorization = False
    tuning.slp_vectorization = False
    builder = llvm.create_pass_builder(machine, tuning)
    if opt >= 3:
        passes = builder.getModulePassManager()
    else:
        passes = llvm.create_new_module_pass_manager()
        passes.add_always_inliner_pass()
        passes.add_global_dead_code_eliminate_pass()
        passes.add_sroa_pass()
        passes.add_instruction_combine_pass()
        passes.add_simplify_cfg_pass()
        passes.add_new_gvn_pass()
    passes.run(module, builder)
    passes.close()
    builder.close()
    tuning.close()


@_uninterrupted
def _compile(text: str, target: Target, opt: int, assembly: bool) -> Any:
    llvm = _llvm(target.triple)
    context = llvm.create_context()  # its own, so that types and constants are freed with the module
    machine = _machine(llvm, target, min(opt, 2))
    try:
        try:
            module = llvm.parse_assembly(text, context=context)
        except RuntimeError as error:
            raise CompileError(str(error), text) from None
        try:
            module.triple = target.triple
            module.data_layout = str(machine.target_data)
            try:
                module.verify()
            except RuntimeError as error:
                raise CompileError(str(error), text) from None
            if opt > 0:
                _optimize(llvm, module, machine, opt)
            return machine.emit_assembly(module) if assembly else machine.emit_object(module)
        finally:
            module.close()
    finally:
        machine.close()
        context.close()


def compile_object(text: str, target: Target, opt: int = 2) -> bytes:
    """LLVM text as a relocatable object for `target`. Raises CompileError when LLVM refuses the text.

    opt: 0 nothing, 2 what kernels need, 3 LLVM's whole pipeline (for long-lived code that is not vector loops).
    """
    return _compile(text, target, opt, assembly=False)


def emit_assembly(text: str, target: Target, opt: int = 2) -> str:
    """The assembly that `compile_object` would encode, for people to read."""
    return _compile(text, target, opt, assembly=True)


# ---- objects


def _elf_symbols(data: bytes) -> Iterable[tuple[str, int, int]]:
    """(name, section index, binding) of the symbols of a 64-bit little-endian ELF object."""
    sections_at = struct.unpack_from("<Q", data, 40)[0]
    entry_size, count = struct.unpack_from("<HH", data, 58)
    headers = [struct.unpack_from("<IIQQQQIIQQ", data, sections_at + i * entry_size) for i in range(count)]
    for _, kind, _, _, offset, size, link, _, _, entry in headers:
        if kind != 2:  # SHT_SYMTAB
            continue
        strings = headers[link][4]
        for at in range(offset, offset + size, entry):
            name_at, info, _, section = struct.unpack_from("<IBBH", data, at)
            end = data.index(b"\0", strings + name_at)
            yield data[strings + name_at : end].decode(), section, info >> 4


_ELF_MACHINES = {"x86_64": 62, "aarch64": 183, "riscv64": 243}


def _is_elf(data: bytes) -> bool:
    return data[:6] == b"\x7fELF\x02\x01"


def _check_machine(data: bytes, triple: str) -> None:
    """LinkError when `data` is no object for `triple`: LLVM would not say so, but crash."""
    machine = _ELF_MACHINES.get(triple.split("-", 1)[0])
    if "linux" not in triple or machine is None:
        return
    if not _is_elf(data) or data[18:20] != struct.pack("<H", machine):
        raise LinkError(f"not an object for {triple}")


def undefined_symbols(data: bytes) -> set[str]:
    """Names that an ELF object needs from elsewhere. Raises LinkError when it is no 64-bit little-endian ELF object."""
    return _symbols(data, defined=False)


def defined_symbols(data: bytes) -> set[str]:
    """Names that an ELF object gives to others. Raises LinkError as `undefined_symbols` does."""
    return _symbols(data, defined=True)


def _symbols(data: bytes, defined: bool) -> set[str]:
    if not _is_elf(data):
        raise LinkError("not a 64-bit little-endian ELF object")
    try:
        return {name for name, section, binding in _elf_symbols(data) if name and binding and (section != 0) == defined}
    except (struct.error, ValueError, IndexError, OverflowError):
        raise LinkError("damaged ELF object") from None


# ---- linking


class Code:
    """Linked machine code. Addresses stay valid until `close()` or until the last reference to this goes away."""

    __slots__ = ("_engine", "__weakref__")

    def __init__(self, engine: Any):
        self._engine = engine

    def address(self, symbol: str) -> int:
        """Where `symbol` is. KeyError when no object defines it; RuntimeError after `close()`."""
        if self._engine is None:
            raise RuntimeError("this code was closed")
        found = self._engine.get_function_address(symbol)
        if not found:
            raise KeyError(symbol)
        return found

    @property
    def closed(self) -> bool:
        return self._engine is None

    def close(self) -> None:
        """Frees the code. The caller knows that nothing runs in it any more."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def __del__(self, finalizing=sys.is_finalizing):
        if not finalizing():  # then llvmlite may be gone, and the process takes its code along
            self.close()


def _process_symbol(name: str) -> int:
    """The address of a function of libc or Python in this process, 0 when there is none."""
    try:
        return ctypes.cast(getattr(ctypes.CDLL(None), name), ctypes.c_void_p).value or 0
    except (AttributeError, OSError, TypeError):
        return 0


@_uninterrupted
def link(objects: Iterable[bytes], symbols: dict[str, int] | None = None) -> Code:
    """Links objects for this machine into one engine. `symbols`: addresses of names the objects leave undefined;
    names neither there nor in another object come from the process (memcpy, pthread_create, the Python C-API).

    Raises LinkError when a name remains open (LLVM itself would end the process).
    """
    llvm = _llvm()
    objects = list(objects)
    triple = llvm.get_process_triple()
    for data in objects:
        _check_machine(data, triple)
    given = dict(symbols or {})
    if all(map(_is_elf, objects)):
        needed: set[str] = set().union(*map(undefined_symbols, objects))
        needed -= set().union(*map(defined_symbols, objects))
        found = {name: given.get(name) or _process_symbol(name) for name in needed}
        missing = sorted(name for name, address in found.items() if not address)
        if missing:
            raise LinkError(f"undefined symbols: {', '.join(missing)}")
        given = found
    stub = "".join(f'@"{name}" = external global i8\n' for name in given)
    # the engine takes over the module and the machine; the global context outlives both
    module = llvm.parse_assembly(stub)
    machine = _machine(llvm, host_target(), 2, jit=True)
    engine = llvm.create_mcjit_compiler(module, machine)
    try:
        for name, address in given.items():
            engine.add_global_mapping(module.get_global_variable(name), address)
        for data in objects:
            try:
                engine.add_object_file(llvm.ObjectFileRef.from_data(data))
            except (RuntimeError, ValueError) as error:
                raise LinkError(str(error)) from None
        engine.finalize_object()
    except BaseException:
        engine.close()
        raise
    return Code(engine)
