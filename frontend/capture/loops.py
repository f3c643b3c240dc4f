"""Loops over values of tensors close into one `while` node.

The test and the body of a loop statement are there as functions of the variables that it assigns (`loop_syntax`). They
are traced once more, on symbols: tensors, and Python numbers that stand for themselves. Whatever a step needs to know
(a truth value) is answered both ways, and the ways are merged. The loop closes only if that gives, on every way, the
same variables with the same types, and nothing else: no object from outside changed, no iterator advanced, no random
number drawn. Nothing is inferred from what was observed; otherwise the loop goes on as Python runs it, step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from ...ir import ops
from ...ir.dtypes import bool_, float64, int64
from ...ir.graph import Value
from ...ir.op import Attrs, OpDef, get_op
from ...ir.types import TensorType
from ..control_body import Body, Captures, type_of
from ..dispatch import apply
from ..state import state
from ..tape import needs_grad, root_of
from ..tensor import Tensor, new_tensor
from . import guards as g
from .scalars import TracedBool, TracedFloat, TracedInt, TracedScalar, number_of
from .tracer import NotClosed, Specialize, user_location

if TYPE_CHECKING:
    from .hooks import Hooks

MOST_WAYS = 32  # through one step
MOST_ATTEMPTS = 2  # the first step may change a number into a tensor, or make a variable
MOST_UNROLLED = 64  # steps of a loop over a range whose length is known
_SCALARS: dict[type, type[TracedScalar]] = {bool: TracedBool, int: TracedInt, float: TracedFloat}


class Undefined:
    """A variable without a value. Whatever is done with it ends the attempt."""

    __slots__ = ()

    def _used(self, *_: Any) -> NoReturn:
        raise NotClosed("a variable is read that has no value in the first step")

    __bool__ = __eq__ = __lt__ = __le__ = __gt__ = __ge__ = __add__ = __radd__ = __sub__ = __mul__ = __rmul__ = _used  # type: ignore[assignment]
    __getattr__ = __getitem__ = __call__ = __iter__ = __len__ = __contains__ = __hash__ = __str__ = _used  # type: ignore[assignment]


UNDEFINED = Undefined()


class LoopTracer(Body):
    """Traces the test or the body of a loop, along every way it can take."""

    def __init__(self, name: str, captures: Captures):
        super().__init__(name, captures)
        self.asker = self.ask
        self.decisions: list[bool] = []
        self.asked: list[Value] = []
        self.answers: dict[Value, bool] = {}
        self.parameters: dict[int, Tensor] = {}  # tensors that stand for variables
        self.changed: set[int] = set()  # of those, the ones that are written in place

    def stop(self, reason: str) -> NoReturn:
        raise NotClosed(reason)

    def ask(self, value: Value, kind: str) -> bool:
        """Both answers are right, one after the other."""
        if kind != "bool":
            self.stop("Python needs an int that the loop computes")
        known = self.answers.get(value)
        if known is None:
            if len(self.asked) == len(self.decisions):
                self.decisions.append(True)
            known = self.answers[value] = self.decisions[len(self.asked)]
            self.asked.append(value)
        return known

    def emit(self, op: OpDef, inputs: tuple[Value, ...], attrs: Attrs) -> tuple[Value, ...]:
        if self.asked and not op.pure:  # all ways are computed: what may fail must not be on some of them only
            self.stop("what may fail is on one of its ways only")
        return super().emit(op, inputs, attrs)

    def concretize(self, t: Tensor, what: str) -> Any:
        if what in ("bool", "int", "index", "item", "float"):
            return number_of(self, t, what)  # type: ignore[arg-type]
        return super().concretize(t, what)

    def _set(self, root: Tensor, v: Value) -> None:
        node = root._data.node if type(root._data) is Value else None
        if node is not None and node.op.name == "gather":  # perhaps an element that is a view in plain Python
            self.stop("it writes into what it has read at a position that the loop computes")
        if id(root) in self.parameters:
            self.changed.add(id(root))
        elif not self._is_own(root) and id(root) not in self._made:
            self.stop("it writes into a tensor from outside")
        super()._set(root, v)

    def ways(self, run: Callable[[], Any]) -> "Way":
        """What `run` gives along every way."""
        found: list[tuple[list[bool], list[Value], Any]] = []
        decisions: list[bool] = []
        while True:
            self.decisions, self.asked, self.answers = list(decisions), [], {}
            out = run()
            found.append((self.decisions, self.asked, out))
            decisions = self.decisions[: len(self.asked)]
            while decisions and not decisions[-1]:
                decisions.pop()
            if not decisions:
                return _tree(found, 0)
            decisions[-1] = False
            if len(found) >= MOST_WAYS:
                self.stop(f"a step of it has more than {MOST_WAYS} ways")


@dataclass(slots=True)
class Way:
    """A question with what comes of either answer; or (`question` None) what came out."""

    question: Value | None
    yes: Any
    no: Any = None

    def each(self) -> list[Any]:
        """What came out, of all ways."""
        return [self.yes] if self.question is None else [*self.yes.each(), *self.no.each()]

    def merged(self, pick: Callable[[Any], Value]) -> Value:
        """One value for all ways."""
        if self.question is None:
            return pick(self.yes)
        yes, no = self.yes.merged(pick), self.no.merged(pick)
        return yes if yes is no else ops.where(self.question, yes, no)


def _tree(found: list[tuple[list[bool], list[Value], Any]], depth: int) -> Way:
    decisions, asked, out = found[0]
    if len(asked) == depth:
        return Way(None, out)
    parts = ([f for f in found if f[0][depth] is answer] for answer in (True, False))
    yes, no = (_tree(p, depth + 1) for p in parts)
    return Way(asked[depth], yes, no)


# ------------------------------------------------------------------ variables


@dataclass(slots=True)
class Slot:
    """A variable, or a part of a tuple in one. kind: "tensor", "number", "same" (it must not change) or "free" (nobody
    needs what it has before a step). before: the object that it has outside."""

    kind: str
    before: Any
    type: TensorType | None = None
    scalar: type[TracedScalar] | None = None

    def inside(self, value: Value | None, tracer: LoopTracer) -> Any:
        """What stands for it in a step."""
        if self.kind == "tensor":
            t = new_tensor(value, type(self.before))
            tracer.parameters[id(t)] = t
            return t
        if self.kind == "number":
            assert self.scalar is not None and value is not None
            return TracedInt(value, counts=True) if self.scalar is TracedInt else self.scalar(value)
        return UNDEFINED if self.kind == "free" else self.before

    def first(self) -> Tensor:
        """What it begins with."""
        if self.kind == "tensor":
            return self.before
        tracer: Any = state.tracer
        if isinstance(self.before, TracedScalar):
            before = self.before
            return tracer.wrap(before.counted() if isinstance(before, TracedInt) else before.value)
        assert self.type is not None
        return tracer.wrap(ops.full(value=self.before, shape=(), dtype=self.type.dtype))

    def value_of(self, x: Any, tracer: LoopTracer) -> Value:
        """The value of what a step has left in the variable. NotClosed if it is of another kind."""
        assert self.type is not None
        if self.kind == "tensor":
            if not isinstance(x, Tensor) or type(x) is not type(self.before):
                tracer.stop(f"a variable that is a tensor becomes a {type(x).__name__}")
            found = tracer.read(x)
            if found.type != self.type:
                tracer.stop(f"a variable that is {self.type} becomes {found.type}")
            return found
        assert self.scalar is not None
        if type(x) in (bool, int, float) and _SCALARS[type(x)] is self.scalar:
            if type(x) is int and not -(1 << 52) <= x <= 1 << 52:
                tracer.stop("an int that does not fit into 64 bits")
            return ops.full(value=x, shape=(), dtype=self.type.dtype)
        if not isinstance(x, TracedScalar) or x.python_type is not self.scalar.python_type:
            tracer.stop(f"a {self.scalar.python_type.__name__} becomes a {getattr(x, 'python_type', type(x)).__name__}")
        return tracer.own(x.counted() if isinstance(x, TracedInt) else x.value)


def _slots(values: Sequence[Any], free: Sequence[bool]) -> tuple[list[Slot], list[Any]]:
    """The slots of the variables, and how tuples nest them: numbers of slots."""
    slots: list[Slot] = []

    def shape_of(x: Any, free: bool) -> Any:
        if type(x) is tuple and x and not free:
            return tuple(shape_of(part, False) for part in x)
        slots.append(_slot(x, free))
        return len(slots) - 1

    return slots, [shape_of(x, f) for x, f in zip(values, free)]


def _slot(x: Any, free: bool) -> Slot:
    if free:
        return Slot("free", x)
    if x is UNDEFINED:
        raise NotClosed("a variable has no value before the first step")
    if isinstance(x, Tensor):
        return Slot("tensor", x, type_of(x))
    kind = x.python_type if isinstance(x, TracedScalar) else type(x)
    if kind in _SCALARS:
        if kind is int and not isinstance(x, TracedScalar) and not -(1 << 52) <= x <= 1 << 52:
            raise NotClosed("an int that does not fit into 64 bits")
        dtype = {bool: bool_, int: int64, float: float64}[kind]
        return Slot("number", x, TensorType(dtype, ()), _SCALARS[kind])
    return Slot("same", x)


def _filled(shape: Any, parts: Sequence[Any]) -> Any:
    return tuple(_filled(s, parts) for s in shape) if type(shape) is tuple else parts[shape]


def _taken(shape: Any, x: Any, out: dict[int, Any], tracer: LoopTracer) -> None:
    """The parts of a variable after a step, by slot."""
    if type(shape) is tuple:
        if type(x) is not tuple or len(x) != len(shape):
            tracer.stop("a tuple becomes something else")
        for s, part in zip(shape, x):
            _taken(s, part, out, tracer)
    else:
        out[shape] = x


# ------------------------------------------------------------------ loops


class Ranged:
    """The arguments of a `range` that a loop goes along: its numbers may be traced."""

    def __init__(self, hooks: Hooks, function: Any, args: tuple):
        self.hooks, self.function, self.args = hooks, function, args
        parts: tuple[Any, ...] = (0, args[0], 1) if len(args) == 1 else (*args, 1) if len(args) == 2 else args
        found: tuple[Any, ...] = parts if len(parts) == 3 else (None, None, None)
        self.start, self.stop, self.step = found

    def iterable(self) -> Any:
        return self.hooks.iterate(self.hooks.call(self.function, *self.args))

    def worth_it(self) -> bool:
        """Whether an attempt is worth it: the length is not known, or large."""
        if self.function is not range or type(self.step) is not int or self.step == 0:
            return False
        if isinstance(self.start, TracedInt) or isinstance(self.stop, TracedInt):
            return all(isinstance(x, TracedInt) or type(x) is int for x in (self.start, self.stop))
        known = type(self.start) is int and type(self.stop) is int
        return known and len(range(self.start, self.stop, self.step)) > MOST_UNROLLED


class Loop:
    """One run of a loop statement. `close` tries; afterwards `values` are the variables."""

    def __init__(self, hooks: Hooks, names: tuple[str, ...], free: tuple[bool, ...]):
        self.hooks, self.names, self.free = hooks, names, free
        self.attempts = 0
        self.values: Any = ()

    def close(self, test: Callable, body: Callable, getters: Sequence[Callable[[], Any]]) -> bool:
        """A `while` loop, before its test."""
        if not self._allowed():
            return False
        values = [_value(get) for get in getters]
        return self._attempt(values, self.free, test, lambda i, *v: body(*v), lambda out: out)

    def close_range(self, ranged: Ranged, body: Callable, getters: Sequence[Callable[[], Any]]) -> bool:
        """A loop over a range, before it begins. The first variable is its own."""
        if not self._allowed() or not ranged.worth_it():
            return False
        values = [_value(get) for get in getters]
        start, stop, step = ranged.start, ranged.stop, ranged.step
        if not self.free[0] and values[0] is UNDEFINED:
            if isinstance(start, TracedInt) or isinstance(stop, TracedInt):
                return False
            values[0] = 0  # a range that is not empty gives it a value
        if step > 0:
            going = lambda i, *_: i < stop  # noqa: E731
        else:
            going = lambda i, *_: i > stop  # noqa: E731

        def one(i: Any, own: Any, *rest: Any) -> Any:
            broken, out = body(i, *rest)
            return broken, (i + step, *out)

        counter = start if isinstance(start, TracedInt) else int(start)
        return self._attempt(
            [counter, *values], (False, *self.free), going, lambda i, *v: one(v[0], *v[1:]), lambda out: out[1:]
        )

    def _allowed(self) -> bool:
        tracer: Any = state.tracer
        if tracer is None or getattr(tracer, "asker", None) is None or self.attempts >= MOST_ATTEMPTS:
            return False
        self.attempts += 1
        return True

    def _attempt(
        self, values: Sequence[Any], free: Sequence[bool], test: Callable, body: Callable, result: Callable
    ) -> bool:
        hooks = self.hooks
        try:
            with hooks.attempting():
                closed = _closed(values, free, test, body)
        except (NotClosed, Specialize, Exception) as e:  # whatever it is, plain steps show it again
            what = str(e) if isinstance(e, NotClosed) else f"a step may raise a {type(e).__name__}"
            note = f"{user_location()}: the loop runs step by step: {what}"
            if note not in hooks.open_loops:
                hooks.open_loops.append(note)
            return False
        self.values = result(closed)
        return True


def _value(get: Callable[[], Any]) -> Any:
    try:
        return get()
    except NameError:
        return UNDEFINED


def _closed(values: Sequence[Any], free: Sequence[bool], test: Callable, body: Callable) -> tuple[Any, ...]:
    """The variables after the loop, as a `while` node gives them."""
    outer: Any = state.tracer
    slots, shape = _slots(values, free)
    carried = [s for s in slots if s.type is not None]
    captures = Captures()
    types = [s.type for s in carried]

    def run(tracer: LoopTracer, function: Callable) -> Callable[[], Any]:
        tracer.own_inputs = len(types)
        inputs = [tracer.input(t) for t in types]  # type: ignore[arg-type]

        def once() -> Any:
            it = iter(inputs)
            tracer.parameters = {}
            parts = [s.inside(next(it) if s.type is not None else None, tracer) for s in slots]
            keep.append(parts)
            return parts, function(*_filled(tuple(shape), parts))

        return once

    keep: list[Any] = []  # objects whose ids are remembered
    tester = LoopTracer("test", captures)
    with tester:
        tests = tester.ways(run(tester, lambda *v: _truth(test(*v))))
        if tester.changed:
            tester.stop("the test writes into a variable")
        going = tests.merged(lambda out: _bool_value(out[1], tester))
    constant = tests.question is None and type(tests.yes[1]) is bool

    stepper = LoopTracer("step", captures)
    with stepper:
        steps = stepper.ways(run(stepper, lambda *v: body(None, *v)))
        outs = [_after(out, shape, slots, stepper) for out in steps.each()]
        by_way = {id(way): out for way, out in zip(steps.each(), outs)}
        in_place = _in_place(slots, outs, stepper)
        new = [
            steps.merged(lambda way, k=k, s=s: s.value_of(by_way[id(way)][0][k], stepper))
            for k, s in enumerate(slots)
            if s.type is not None
        ]
        breaks = any(out[1] for out in outs)
        if breaks:
            new.append(steps.merged(lambda way: ops.full(value=not by_way[id(way)][1], shape=(), dtype=bool_)))
    if constant and not (breaks and steps.question is not None):
        raise NotClosed("its length does not depend on values")
    _no_aliases(slots, in_place, captures)
    if state.grad_enabled and any(needs_grad(t) for t in (*(s.first() for s in carried), *captures.tensors.values())):
        raise NotClosed("gradients pass through it")
    first = [s.first() for s in carried]
    if breaks:
        first.append(outer.wrap(ops.full(value=True, shape=(), dtype=bool_)))
        for tracer in (tester, stepper):
            flag = tracer.input(TensorType(bool_, ()))
            tracer.inputs.insert(len(types), tracer.inputs.pop())
            tracer.own_inputs += 1
            if tracer is tester:
                with tester:
                    going = flag if constant else ops.and_(flag, going)
    condition, step = tester.graph([going]), stepper.graph(new)
    out = apply(get_op("while"), *first, *captures.tensors.values(), cond=condition, body=step, carried=len(first))
    it = iter(out)
    parts = [_outside(s, next(it), k in in_place) if s.type is not None else s.before for k, s in enumerate(slots)]
    parts = [UNDEFINED if s.kind == "free" else p for s, p in zip(slots, parts)]
    return _filled(tuple(shape), parts)


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


def _after(way: Any, shape: list, slots: list[Slot], tracer: LoopTracer) -> tuple[dict[int, Any], bool, list]:
    """What a step along one way has left in the slots, whether it left the loop, and what the slots were in it."""
    parts, (broken, values) = way
    found: dict[int, Any] = {}
    for s, x in zip(shape, values):
        _taken(s, x, found, tracer)
    for k, slot in enumerate(slots):
        if slot.kind == "same" and not _unchanged(slot.before, found[k]):
            tracer.stop(f"a {type(slot.before).__name__} in a variable changes")
    return found, broken, parts


def _unchanged(before: Any, now: Any) -> bool:
    if before is now:
        return True
    return g.is_value(before) and type(before) is type(now) and g.exact(before) == g.exact(now)


def _in_place(slots: list[Slot], outs: Sequence[tuple], tracer: LoopTracer) -> set[int]:
    """Slots whose tensor is written in place, and is the same object after every way."""
    found: set[int] = set()
    for k, slot in enumerate(slots):
        if slot.kind != "tensor":
            continue
        same = [out[0][k] is out[2][k] for out in outs]
        if any(id(out[2][k]) in tracer.changed for out in outs):
            if not all(same):
                tracer.stop("a tensor is written in place on one way, and replaced on another")
            found.add(k)
    return found


def _no_aliases(slots: list[Slot], in_place: set[int], captures: Captures) -> None:
    """What is written in place must have no other name in the loop."""
    for k in in_place:
        root = root_of(slots[k].before)
        others = [s.before for j, s in enumerate(slots) if j != k and isinstance(s.before, Tensor)]
        if any(root_of(t) is root for t in (*others, *captures.tensors.values())):
            raise NotClosed("a tensor that is written in place has another name in the loop")


def _outside(slot: Slot, t: Tensor, in_place: bool) -> Any:
    tracer: Any = state.tracer
    value = tracer.read(t)
    if slot.kind == "number":
        assert slot.scalar is not None
        return slot.scalar(value)
    if in_place:
        tracer.write(slot.before, value)
        return slot.before
    return new_tensor(value, type(slot.before))
