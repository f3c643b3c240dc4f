"""Runs a plan on a device: kernels by their launches, control flow from the host, and what no kernel computes there."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ...ir import dim
from ...ir.interpreter import concrete_attrs
from ...ir.plan import ControlStep, HostStep, Plan, Step
from ...ir.types import TensorType
from .alignment import Alignment
from .array import DeviceArray, empty, to_device, write
from .code import Counts
from .device import Gpu
from .launches import Frame, KernelStep, Sized
from .memory import block_size

Sizes = Mapping[str, int]


SETS_OF_SIZES = 64  # whose launches are kept


class Program:
    """The steps of a plan, with their code. Thread-safe: a call keeps everything that it changes to itself."""

    def __init__(
        self,
        plan: Plan,
        gpu: Gpu,
        breathe: Callable[[], None] = lambda: None,
        counts: Counts | None = None,
        alignment: Alignment | None = None,
    ):
        self.plan, self.gpu, self.alignment = plan, gpu, alignment or Alignment(plan)
        loaded = gpu.load_all(self.alignment.work(), breathe, counts)
        self._constants = [to_device(gpu, a) for a in plan.constants]
        self._constant_addresses = [a.address for a in self._constants]
        self.steps: list[KernelStep | HostStep | tuple[ControlStep, list[Program]]] = []
        for step in plan.steps:
            if isinstance(step, Step):
                self.steps.append(self._kernel(step))
            elif isinstance(step, ControlStep):
                self.steps.append((step, [Program(a.plan, gpu, alignment=a) for a in self.alignment.inner(step)]))
            else:
                self.steps.append(step)
        del loaded  # by now the steps refer to it
        self.straight = not plan.checks and all(isinstance(s, KernelStep) for s in self.steps)
        self.inputs = 1 + max((b.slot for b in plan.buffers if b.kind == "input"), default=-1)
        self._size_names = [str(d) for d in plan.dims]
        self._sized: dict[tuple[int, ...], Sized] = {}

    def _kernel(self, step: Step) -> KernelStep:
        function = self.gpu.load(step.kernel, step.schedule, self.alignment.unaligned(step))
        params = [p for p in step.kernel.params if p.role != "scratch"]
        by_name = dict(zip((p.name for p in params), zip(step.args, step.offsets or (0,) * len(params))))
        chosen = [(*by_name[name], size) for name, size in function.code.buffers]
        return KernelStep(function, tuple(b for b, _, _ in chosen), tuple(o * size for _, o, size in chosen))

    def sized(self, sizes: Sizes) -> Sized:
        """The launches for these sizes."""
        key = tuple([sizes[name] for name in self._size_names])
        found = self._sized.get(key)
        if found is None:
            if len(self._sized) >= SETS_OF_SIZES:
                self._sized.clear()
            found = self._sized[key] = Sized(self.plan, self.steps, self.inputs, sizes)
        return found

    def temporaries(self, sizes: Sizes) -> int:
        """Bytes that a call takes besides inputs and outputs."""
        arena = self.sized(sizes).arena
        inner = [p.temporaries(sizes) for s in self.steps if type(s) is tuple for p in s[1]]
        return (block_size(arena) if arena else 0) + max(inner, default=0)

    def bases(self, arena: int, inputs: Sequence[int], outputs: Sequence[int]) -> np.ndarray:
        """What the addresses of a call begin at, in the order of `Sized`."""
        return np.array([0, arena, *inputs[: self.inputs], *self._constant_addresses, *outputs], np.int64)

    def run(self, inputs: Sequence[int], outputs: Sequence[int], sizes: Sizes) -> str | None:
        """Fills `outputs` (addresses; of those that the plan does not write itself any) and what it writes of `inputs`.
        Returns the message of a check that failed, with nothing written; None if all is well."""
        gpu = self.gpu
        sized = self.sized(sizes)
        arena = gpu.pool.get(sized.arena, "temporaries") if sized.arena else None
        bases = self.bases(0 if arena is None else arena.address, inputs, outputs)
        frame = sized.take(bases)
        gpu.driver.enter()
        if self.straight:
            stream = gpu.stream.handle
            for launch in frame.kernels:
                launch(stream)
            failed = None
        else:
            failed = self._in_steps(frame, sized.addresses(bases), sizes)
        sized.give(frame)
        return failed

    def _in_steps(self, frame: Frame, at: list[int], sizes: Sizes) -> str | None:
        plan, stream = self.plan, self.gpu.stream.handle
        for number, step in enumerate(self.steps):
            if number == plan.commit_from and (failed := self.failed(at)) is not None:
                return failed
            if isinstance(step, KernelStep):
                launch = frame.launches[number]
                if launch is not None:
                    launch(stream)
            elif isinstance(step, HostStep):
                self._on_host(step, at, sizes)
            else:
                failed = self._control(*step, at, sizes)
                if failed is not None:
                    return failed
                self.gpu.driver.enter()
        return self.failed(at) if plan.commit_from >= len(self.steps) else None

    def failed(self, at: Sequence[int]) -> str | None:
        """The message of a check that has failed, of a call whose buffers are `at`. Waits for the device, once."""
        checks = [(b, message) for b, message in self.plan.checks if b >= 0]
        if not checks:
            return None
        sizes = [dim.evaluate(self.plan.buffers[b].type.size, {}) for b, _ in checks]  # a byte for each
        gpu, stream = self.gpu, self.gpu.stream
        address, room = gpu.host.get(sum(sizes))
        offset = 0
        for (b, _), n in zip(checks, sizes):
            if n:
                gpu.driver.copy_out(address + offset, at[b], n, stream.handle)
            offset += n
        stream.synchronize()
        found = ctypes.string_at(address, offset)
        gpu.host.put(address, room)
        offset = 0
        for (_, message), n in zip(checks, sizes):
            if any(found[offset : offset + n]):
                return message
            offset += n
        return None

    # ---- values on the host
    def _read(self, address: int, type: TensorType, sizes: Sizes) -> np.ndarray:
        out = np.empty(tuple(dim.evaluate(n, sizes) for n in type.shape), type.dtype.np)
        if out.size:
            stream = self.gpu.stream
            self.gpu.driver.copy_out(out.ctypes.data, address, out.nbytes, stream.handle)
            stream.synchronize()
        return out

    def _on_host(self, step: HostStep, at: list[int], sizes: Sizes) -> None:
        """The op's reference, on copies of its operands in host memory."""
        node = step.node
        operands = tuple(self._read(at[b], v.type, sizes) for b, v in zip(step.args, node.inputs, strict=True))
        try:
            out = node.op.evaluate(operands, concrete_attrs(node, sizes))
        except Exception as e:
            e.add_note(f"{node.loc or 'no line known'}: {node.op.name}({', '.join(str(v.type) for v in node.inputs)})")
            raise
        for b, result in zip(step.results, out if type(out) is tuple else (out,), strict=True):
            if b >= 0:
                write(self.gpu, at[b], result)

    # ---- control flow
    def _control(self, step: ControlStep, programs: list["Program"], at: list[int], sizes: Sizes) -> str | None:
        """The op's meaning: the host decides, the programs compute."""
        node, a = step.node, concrete_attrs(step.node, sizes)
        operands = [at[b] for b in step.args]
        results = [at[b] for b in step.results]
        if node.op.name == "cond":
            taken = 0 if self._read(operands[0], node.inputs[0].type, sizes) else 1
            return self._call(programs[taken], operands[1:], results, sizes)
        n = a["carried"]
        types = [v.type for v in node.outputs]
        carry = _Carry(self, types[:n], operands[:n], sizes)
        if node.op.name == "while":
            test = _Carry(self, [programs[0].result_type(0)], [], sizes)
            while True:
                failed = self._call(programs[0], [*carry.now, *operands[n:]], test.spare, sizes)
                if failed is not None:
                    return failed
                if not self._read(test.spare[0], test.types[0], sizes):
                    break
                failed = self._call(programs[1], [*carry.now, *operands[n:]], carry.spare, sizes)
                if failed is not None:
                    return failed
                carry.turn()
        else:
            end, length = n + a["scanned"], a["length"]
            rows = [_row_bytes(v.type, sizes) for v in node.inputs[n:end]]
            stacked = [_row_bytes(t, sizes) for t in types[n:]]
            for i in reversed(range(length)) if a["reverse"] else range(length):
                given = [x + i * r for x, r in zip(operands[n:end], rows)]
                into = [y + i * r for y, r in zip(results[n:], stacked)]
                failed = self._call(programs[0], [*carry.now, *given, *operands[end:]], [*carry.spare, *into], sizes)
                if failed is not None:
                    return failed
                carry.turn()
        for result, address, t in zip(results, carry.now, types):
            self._copy(result, address, t, sizes)
        return None

    def result_type(self, k: int) -> TensorType:
        return self.plan.buffers[self.plan.outputs[k]].type

    def _call(self, program: "Program", inputs: Sequence[int], results: Sequence[int], sizes: Sizes) -> str | None:
        """A program inside of this one. What it hands on as it is gets copied."""
        failed = program.run(inputs, results, sizes)
        if failed is None:
            for k, (b, result) in enumerate(zip(program.plan.outputs, results)):
                buffer = program.plan.buffers[b]
                if buffer.kind == "input":
                    self._copy(result, inputs[buffer.slot], program.result_type(k), sizes)
        return failed

    def _copy(self, target: int, source: int, type: TensorType, sizes: Sizes) -> None:
        nbytes = dim.evaluate(type.size, sizes) * type.dtype.itemsize
        if nbytes and target != source:
            self.gpu.driver.copy(target, source, nbytes, self.gpu.stream.handle)


class _Carry:
    """What a loop carries, twice: as it is (`now`), and where the next step writes it (`spare`)."""

    def __init__(self, program: Program, types: list[TensorType], start: Sequence[int], sizes: Sizes):
        self.types = types

        def room() -> list[DeviceArray]:
            return [empty(program.gpu, tuple(dim.evaluate(n, sizes) for n in t.shape), t.dtype.np) for t in types]

        self._held = (room(), room())
        self.now = list(start)
        self.spare, self._third = ([a.address for a in held] for held in self._held)

    def turn(self) -> None:
        """The spare becomes what is carried. What the loop was given is never written."""
        self.now, self.spare, self._third = self.spare, self._third, self.spare


def _row_bytes(t: TensorType, sizes: Sizes) -> int:
    return dim.evaluate(dim.numel(t.shape[1:]), sizes) * t.dtype.itemsize
