"""Loops over values of tensors close into one node.

The test and the body of a loop statement are there as functions of the variables that it assigns (`loop_syntax`). They
are traced once more, on symbols: tensors, and Python numbers that stand for themselves. Whatever a step needs to know
(a truth value) is answered both ways, and the ways are merged (`loop_ways`). The loop closes only if that gives, on every
way, the same variables with the same types (`loop_slots`), and the step changes nothing but what is carried from step to
step (`loop_holders`): no iterator advances, nothing is printed. Nothing is inferred from what was observed; otherwise the
loop goes on as Python runs it, step by step.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...ir import ops
from ...ir.dtypes import bool_, int64
from ...ir.graph import Value
from ...ir.types import TensorType
from ..control_body import Captures, type_of
from ..state import state
from ..tape import keep_operands, needs_grad, storage_of
from ..tensor import Tensor
from .instrument import is_instrumented
from .loop_holders import MOST_AGAIN, Again, Changes
from .loop_nodes import run_loop
from .loop_slots import UNDEFINED, Slot, filled, is_number, slots_of, taken, unchanged
from .loop_syntax import ENDED, GOING
from .loop_ties import FRESH, Tie
from .loop_walks import Walk
from .loop_ways import Declines, LoopTracer, Way
from .scalars import TracedInt
from .tracer import NotClosed, Specialize, user_location

if TYPE_CHECKING:
    from .hooks import Hooks

MOST_ATTEMPTS = 2  # the first step may change a number into a tensor, or make a variable
MOST_FAILED = 6  # attempts at one statement in a row, in one capture
MOST_UNROLLED = 64  # steps of a loop whose length is known
FEW = 8  # of one whose steps ask for values

Getters = Sequence[Callable[[], Any]]


class Loop:
    """One run of a loop statement. `open` and `over` try to close it; afterwards `values` are the variables."""

    def __init__(self, hooks: Hooks, names: tuple[str, ...], free: tuple[bool, ...]):
        self.hooks, self.names, self.free = hooks, names, free
        self.place = str(user_location())
        self.attempts = 0
        self.closed = False
        self.values: Any = ()
        self._codes: set[int] = set()  # how it may have ended
        self._code: Value | None = None  # how it has

    def open(self, test: Callable, body: Callable, getters: Getters) -> bool:
        """Whether a `while` loop has to go on step by step. Before its test."""
        if self._allowed():
            statement = Statement(lambda *v: test(*v), lambda *v: body(*v), None)
            self._attempt(statement, [_value(get) for get in getters], self.free)
        return not self.closed

    def over(self, walk: Walk, body: Callable, getters: Getters) -> Iterator[Any]:
        """What a `for` loop has to go along step by step."""
        return _Steps(self, walk, body, getters)

    def left(self, code: int) -> bool:
        """Whether the closed loop has ended by this exit."""
        if not self.closed or code not in self._codes:
            return False
        return len(self._codes) == 1 or self._is(code)

    def ended(self) -> bool:
        """Whether the loop has come to its end without `break`."""
        if not self.closed or self._codes <= {GOING, ENDED}:
            return True
        return any([code in self._codes and self._is(code) for code in (GOING, ENDED)])

    def _is(self, code: int) -> bool:
        tracer: Any = state.tracer
        assert self._code is not None
        return bool(tracer.ask(ops.eq(self._code, ops.full(value=code, shape=(), dtype=int64)), "bool"))

    def _allowed(self) -> bool:
        tracer: Any = state.tracer
        if tracer is None or getattr(tracer, "asker", None) is None or self.attempts >= MOST_ATTEMPTS:
            return False
        if self.hooks.stays_open(self.place) or self.hooks.attempts_failed[self.place] >= MOST_FAILED:
            return False
        self.attempts += 1
        return True

    def try_walk(self, walk: Walk, done: int, body: Callable, getters: Getters, asks: bool) -> None:
        """Tries to close a `for` loop, after so many steps, if that is worth it: its length is not known, or large."""
        n = walk.length()
        most = FEW if asks else MOST_UNROLLED
        if not (isinstance(n, TracedInt) or type(n) is int and n - done > most) or not self._allowed():
            return
        end = n.value if isinstance(n, TracedInt) else None

        def going(i: TracedInt, *_: Any) -> Tensor:
            stop = ops.full(value=n, shape=(), dtype=int64) if end is None else end
            return state.tracer.wrap(ops.lt(i.value, stop))  # type: ignore[union-attr]

        def step(i: TracedInt, *v: Any) -> tuple[int, Any]:
            code, out = body(walk.item(i), *v)
            return code, (i + 1, *out)

        statement = Statement(going, step, n - done if type(n) is int else None)
        self._attempt(statement, [done, *(_value(get) for get in getters)], (False, *self.free))
        self.values = self.values[1:]

    def _attempt(self, statement: Statement, values: Sequence[Any], free: Sequence[bool]) -> None:
        hooks = self.hooks
        try:
            done = Closing(hooks, statement, values, free, self.place).run()
        except (NotClosed, Declines, Specialize, Exception) as e:  # whatever it is, plain steps show it again
            what = str(e) if isinstance(e, (NotClosed, Declines)) else f"a step may raise {type(e).__name__}: {e}"
            hooks.attempts_failed[self.place] += 1
            note = f"{self.place}: the loop runs step by step: {what}"
            if note not in hooks.open_loops:
                hooks.open_loops.append(note)
            return
        self.closed = True
        hooks.attempts_failed[self.place] = 0
        self.values, self._codes, self._code = done


class _Steps:
    """The items of a `for` loop. Before the first ones the loop tries to close, and then there are none."""

    def __init__(self, loop: Loop, walk: Walk, body: Callable, getters: Getters):
        self.loop, self.walk, self.body, self.getters = loop, walk, body, getters
        self.done = self.asked = 0
        self.iterator: Any = None

    def __iter__(self) -> _Steps:
        return self

    def __next__(self) -> Any:
        if self.done < MOST_ATTEMPTS:
            before, self.asked = self.asked, self.loop.hooks.tracer.questions
            self.loop.try_walk(self.walk, self.done, self.body, self.getters, self.done > 0 and self.asked > before)
            if self.loop.closed:
                raise StopIteration
        n = self.walk.length() if not self.done else None
        if isinstance(n, TracedInt) and n.tracer.asker is not None:  # its first item alone, before it is known how many
            if n <= 0:  # type: ignore[operator]
                raise StopIteration
            self.done = 1
            return self.walk.item(TracedInt(ops.full(value=0, shape=(), dtype=int64), counts=True))
        if self.iterator is None:
            self.iterator = itertools.islice(self.walk.iterable(), self.done, None)
        self.done += 1
        return next(self.iterator)


def _value(get: Callable[[], Any]) -> Any:
    try:
        return get()
    except NameError:
        return UNDEFINED


@dataclass(frozen=True)
class Statement:
    """A loop as functions of its variables. length: how many steps it has, if that is known and no exit ends it."""

    test: Callable
    body: Callable  # gives (how the step ends, the variables)
    length: int | None


@dataclass(slots=True)
class Outcome:
    """What came of a step along one way. parts: what the slots were in it; found: what it has left in them. code: how it
    ended; None: it can't be taken natively."""

    parts: list[Any]
    code: int | None
    found: dict[int, Any]
    written: list[Value]  # of tensors from outside


class Closing:
    """The attempt to make one node of a loop."""

    def __init__(self, hooks: Hooks, statement: Statement, values: Sequence[Any], free: Sequence[bool], place: str):
        self.hooks, self.statement, self.values, self.free = hooks, statement, list(values), free
        self.place = place
        self.changes = Changes(hooks)

    def run(self) -> tuple[Any, set[int], Value | None]:
        """(the variables behind the loop, how it may have ended, how it has). NotClosed, or whatever a step raises."""
        for _ in range(MOST_AGAIN):
            self.changes.begin()
            try:
                with self.hooks.attempting(self.changes):
                    self._trace()
            except Again:
                continue
            finally:
                self.changes.restore()
            return self._finish()
        raise NotClosed(f"it changes more than {MOST_AGAIN} things")

    # ---- tracing

    def _trace(self) -> None:
        changes = self.changes
        parts: list[Any] = [p for h in changes.holders.values() for p in h.before]
        values = [*self.values, *parts]
        free = [*self.free, *(False for _ in parts)]
        self.slots, self.shape = slots_of(values, free, len(self.values), changes.numbers, changes.shared)
        self.slots += [Slot("written", t, type_of(t), history=needs_grad(t)) for t in changes.written.values()]
        self.carried = [s for s in self.slots if s.type is not None]
        if state.grad_enabled:
            changes.gradients([s.before for s in self.carried if s.history])
        self.captures = Captures()
        self.keep: list[Any] = []  # objects whose ids are remembered
        self.tester, going = self._tracer("test", lambda *v: _truth(self.statement.test(*v)))
        self.constant = all(x is True for x in going.each())
        self.going = self.tester_values(going)
        self.stepper, steps = self._tracer("step", self._step)
        self.outcomes = steps.each()
        self._check()
        if state.grad_enabled:
            changes.gradients(list(self.captures.tensors.values()))
        self.codes = {out.code for out in self.outcomes} - {None}
        with self.stepper:
            self.new = self.stepper.merged(steps, self._values_of)
        self.leaves = len({out.code for out in self.outcomes}) > 1 or GOING not in self.codes
        if self.constant and (not self.leaves or steps.question is None):
            raise NotClosed("its length does not depend on values")

    def tester_values(self, going: Way) -> Value:
        with self.tester:
            (out,) = self.tester.merged(going, lambda x: [_bool_value(x, self.tester)])
        return out

    def _tracer(self, name: str, function: Callable) -> tuple[LoopTracer, Way]:
        """A tracer with what `function` gives along every way through it."""
        changes = self.changes
        tracer = LoopTracer(name, self.captures, changes)
        more = 1 + len(self.slots)  # how the step before has ended, and which tensors are in the slots
        types = [s.type for s in self.carried] + [TensorType(int64, ())] * more
        inputs = [tracer.input(t) for t in types]  # type: ignore[arg-type]
        tracer.own_inputs = len(inputs)
        is_test = name == "test"

        def once() -> Any:
            it = iter(inputs)
            parts = [s.inside(next(it) if s.type is not None else None) for s in self.slots]
            tracer.enter_step(self.slots, parts, inputs)
            before = dict(tracer.written)
            self.keep.append(parts)
            given = [filled(s, parts) for s in self.shape]
            n = len(self.values)
            for h in changes.holders.values():
                h.put(given[n : n + len(h.before)])
                n += len(h.before)
            try:
                out = function(*given[: len(self.values)])
                if is_test and any(tracer.written[k][1] is not v for k, (_, v) in before.items()):
                    tracer.stop("the test writes into a tensor, or draws random numbers")
                out = out if is_test else self._outcome(tracer, parts, *out)
                if changes.more:
                    raise Again
                if tracer.declined is not None:  # and the step has caught it
                    raise tracer.declined
                return out
            except (NotClosed, Declines, Exception) as e:
                if changes.more:
                    raise Again from None
                if (
                    isinstance(e, NotClosed)
                    or is_test
                    or not tracer.path
                    or isinstance(e, Exception)
                    and not _is_the_programs(e)
                ):
                    raise
                return Outcome(parts, None, {}, [])
            finally:
                changes.restore()

        with tracer:
            return tracer, tracer.ways(once)

    def _step(self, *values: Any) -> tuple[int, Sequence[Any]]:
        code, out = self.statement.body(*values)
        parts: list[Any] = []
        for h in self.changes.holders.values():
            if h.form() != h.form_before:
                raise NotClosed(f"a step changes the length or the keys of {h.name}")
            parts += h.parts()
        return code, [*out, *parts]

    def _outcome(self, tracer: LoopTracer, parts: list[Any], code: int, values: Sequence[Any]) -> Outcome:
        found: dict[int, Any] = {}
        for s, x in zip(self.shape, values, strict=True):
            taken(s, x, found, tracer)
        for k, slot in enumerate(self.slots):
            if slot.kind == "same" and not unchanged(slot.before, found[k]):
                if is_number(slot.before) and is_number(found[k]):
                    self.changes.number(k)
                    continue
                tracer.stop(f"a {type(slot.before).__name__} in a variable changes")
            if slot.kind == "written" and needs_grad(slot.before) != slot.history:
                tracer.stop("a step gives a tensor from outside a history, or takes it away")
        written = [tracer.written[id(t)][1] for t in self.changes.written.values()]
        return Outcome(parts, code, found, written)

    def _values_of(self, out: Outcome) -> list[Value]:
        """What one way leaves in the slots, and how it ends."""
        tracer = self.stepper
        n = len(self.carried)
        which = tracer.inputs[n + 1 : n + 1 + len(self.slots)]
        if out.code is None:
            return [*tracer.inputs[:n], tracer.failure(), *which]
        written = iter(out.written)
        new = [
            next(written) if s.kind == "written" else s.value_of(out.found[k], tracer)
            for k, s in enumerate(self.slots)
            if s.type is not None
        ]
        named = [
            self._identity(out.found[k], out, which) if k in self.identified else which[k]
            for k in range(len(self.slots))
        ]
        return [*new, ops.full(value=out.code, shape=(), dtype=int64), *named]

    # ---- what may not be

    def _check(self) -> None:
        """Finds the slots that are written in place. NotClosed where names of one tensor would part."""
        self.in_place: set[int] = set()
        self.tangled: dict[int, dict[int, Tensor]] = {}  # what slots may share memory with
        self.twins: dict[int, set[int]] = {}  # and slots
        self.outside: dict[int, tuple[int, Tensor]] = {}  # tensors from outside that are left in variables
        taken_ways = [out for out in self.outcomes if out.code is not None]
        if not taken_ways:
            raise NotClosed("no way leads through a step")
        if self.tester.changed or self.tester.written.keys() - self.changes.written.keys():
            raise NotClosed("the test writes into a tensor")
        for k, slot in enumerate(self.slots):
            if slot.kind == "tensor" and any(id(out.parts[k]) in self.stepper.changed for out in taken_ways):
                if not all(out.found[k] is out.parts[k] for out in taken_ways):
                    raise NotClosed("a tensor is written in place on one way, and replaced on another")
                self.in_place.add(k)
        written = {id(storage_of(self.slots[k].before)) for k in self.in_place}
        written |= self.changes.written.keys()
        named = [s.before for s in self.slots if s.kind == "tensor"]
        roots = [id(storage_of(t)) for t in (*named, *self.captures.tensors.values())]
        twice = {r for r in written if roots.count(r) > (r not in self.changes.written)}
        self.changes.in_place([self.slots[k].before for k in self.in_place])
        self.changes.share({k for k in self.in_place if id(storage_of(self.slots[k].before)) in twice})
        if twice:
            raise NotClosed("a tensor that is written in place has another name in the loop")
        for out in taken_ways:
            self._check_names(out)
        self.identified = [k for k, s in enumerate(self.slots) if s.kind == "tensor" and k not in self.in_place]

    def _check_names(self, out: Outcome) -> None:
        """Finds what a way leaves in variables that has other names. NotClosed if that is written in place."""
        tensors = [(k, x) for k, x in out.found.items() if self.slots[k].kind == "tensor" and k not in self.in_place]
        roots = [id(storage_of(x)) for _, x in tensors]
        for k, x in tensors:
            root = storage_of(x)
            parameter = next((j for j, p in enumerate(out.parts) if p is root), None)
            if id(root) in self.changes.written or parameter in self.in_place:
                raise NotClosed("a variable becomes another name of a tensor that is written in place")
            tie = self.stepper.ties.from_result(x)
            others = [root] if tie is None else [storage_of(t) for t in tie.others.values()]
            if x is root and roots.count(id(root)) == 1 and (tie is None or tie.which is not None):
                continue  # which one it is, is carried
            for other in others:
                self._entangle(k, other, out, [j for (j, _), r in zip(tensors, roots) if r == id(root) and j != k])

    def _entangle(self, k: int, other: Tensor, out: Outcome, same: list[int]) -> None:
        """Slot k may share memory with a tensor, and with these slots."""
        found = self.tangled.setdefault(k, {})
        parameter = next((j for j, p in enumerate(out.parts) if p is other), None)
        if parameter is not None:
            found[len(found)] = self.slots[parameter].before
            same = [*same, parameter]
        elif not self.stepper._is_own(other):
            found[len(found)] = other
        self.twins.setdefault(k, set()).update(same)

    def _identity(self, x: Tensor, out: Outcome, inputs: Sequence[Value]) -> Value:
        """The number of the tensor from before the loop that `x` is, or FRESH."""
        for j, p in enumerate(out.parts):
            if p is x:
                return inputs[j]
        tie = self.stepper.ties.from_result(x)
        if tie is not None and tie.which is not None:
            found = ops.full(value=FRESH, shape=(), dtype=int64)
            for k, other in tie.others.items():
                is_it = ops.eq(tie.which, ops.full(value=k, shape=(), dtype=int64))
                found = ops.where(is_it, self._identity(other, out, inputs), found)
            return found
        number = FRESH
        if not self.stepper._is_own(x) and id(x) not in self.stepper._made:
            self.outside.setdefault(id(x), (len(self.slots) + len(self.outside), x))
            number = self.outside[id(x)][0]
        return ops.full(value=number, shape=(), dtype=int64)

    # ---- the node

    def _finish(self) -> tuple[Any, set[int], Value | None]:
        outer: Any = state.tracer
        n = len(self.carried)
        going = self.going
        kept = [*range(n), *([n] if self.leaves else []), *(n + 1 + k for k in self.identified)]
        for tracer in (self.tester, self.stepper):
            tracer.inputs[: tracer.own_inputs], code = [tracer.inputs[k] for k in kept], tracer.inputs[n]
            tracer.own_inputs = len(kept)
            if self.leaves and tracer is self.tester:
                with tracer:
                    tracer.path = ()
                    goes_on = ops.eq(code, ops.full(value=GOING, shape=(), dtype=int64))
                    going = goes_on if self.constant else ops.and_(goes_on, going)
        new = [self.new[k] for k in kept]
        self.tester.finished([going])
        self.stepper.finished(new)
        test, step = self.tester.graph([going]), self.stepper.graph(new)
        numbers = [*([GOING] if self.leaves else []), *self.identified]
        first = [s.first() for s in self.carried]
        first += [outer.wrap(ops.full(value=k, shape=(), dtype=int64)) for k in numbers]
        length = None if self.leaves else self.statement.length
        rest = list(self.captures.tensors.values())
        found = run_loop(first, rest, test, step, length, self.changes.differentiable)
        keep_operands(found, [s.before for k, s in enumerate(self.slots) if s.kind == "written" or k in self.in_place])
        it = iter(found)
        parts = [
            s.after(next(it), k in self.in_place) if s.type is not None else s.before for k, s in enumerate(self.slots)
        ]
        parts = [UNDEFINED if s.kind == "free" else p for s, p in zip(self.slots, parts)]
        self._tie(parts, [outer.read(t) for t in found[len(found) - len(self.identified) :]])
        values = [filled(s, parts) for s in self.shape]
        k = len(self.values)
        for h in self.changes.holders.values():
            h.commit(values[k : k + len(h.before)])
            k += len(h.before)
        codes = {c for c in self.codes if c is not None} - ({GOING} if self.constant else set())
        code = outer.read(found[n]) if self.leaves else None
        return tuple(values[: len(self.values)]), codes if self.constant else codes | {GOING}, code

    def _tie(self, parts: Sequence[Any], which: Sequence[Value]) -> None:
        """Takes note of what the results may be besides tensors of their own."""
        outer: Any = state.tracer
        reopen = self.hooks.leave_open(self.place)
        before = {k: self.slots[k].before for k in self.identified}
        before |= {number: t for number, t in self.outside.values()}
        for k, ident in zip(self.identified, which):
            outer.ties.add(Tie(parts[k], before, ident, reopen))
            others = {**self.tangled.get(k, {})}
            others |= {-2 - j: parts[j] for j in self.twins.get(k, ()) if isinstance(parts[j], Tensor)}
            if others:
                outer.ties.add(Tie(parts[k], others, None, reopen))


def _truth(x: Any) -> Any:
    """The truth of a test as Python sees it; tensors stay what they are."""
    if isinstance(x, Tensor):
        if any(type(d) is int and d != 1 for d in x.shape):
            raise ValueError("a tensor with several elements has no truth value")
        return x
    return bool(x)


def _bool_value(x: Any, tracer: LoopTracer) -> Value:
    if type(x) is bool:
        return ops.full(value=x, shape=(), dtype=bool_)
    v = tracer.read(x)
    v = v if v.dtype is bool_ else ops.cast(v, dtype=bool_)
    return ops.reshape(v, shape=()) if v.ndim else v


def _is_the_programs(e: Exception) -> bool:
    """Whether it is an error that plain Python raises as well: a statement of the user's, or a division by zero."""
    if isinstance(e, ZeroDivisionError):
        return True
    trace = e.__traceback__
    if isinstance(e, NameError) or trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    return is_instrumented(trace.tb_frame.f_code)
