"""What a call returns and changes, as the native entry makes it: the results of a `TraceSpec`, and their structure."""

from __future__ import annotations

from functools import partial
from typing import Any

from ..ir import dim
from ..runtime.trace_spec import Effect, Result
from .capture import pytree, replay
from .capture.effects import Composite, parts_of
from .capture.replay import (
    ArgSource,
    Captured,
    Fresh,
    GradSource,
    Leaf,
    Recipe,
    ScalarSource,
    Static,
    TensorSource,
    View,
    as_kind,
    make_view,
)


class Inexpressible(Exception):
    """The native entry has no words for something in this trace."""


class Results:
    """What a call returns and changes, as the native entry makes it."""

    def __init__(self, captured: Captured, places: dict[int, int], prefix: int):
        self.captured, self.places, self.prefix = captured, places, prefix
        self.items: list[Result] = []
        self.effects: list[Effect] = []
        self._known: dict[int, int] = {}  # by recipe
        recipes, spec = self.captured.recipes, self.captured.spec
        flat = spec.kind is None or spec.kind in (tuple, list) and all(c.kind is None for c in spec.children)
        self.sized: dict[int, int] = {}
        self.told: dict[str, int] = {}  # where sizes of values are
        self.structure: Any = "single" if spec.kind is None else "tuple"
        actions = self.captured.actions
        if flat and all(map(_is_plain, recipes)) and not actions:
            for r in recipes:
                known = self._known.get(id(r))
                if known is None:
                    self._add(r)
                else:
                    self.items.append(Result("again", known))
        else:
            for r in parts_of([*recipes, *(r for a in actions for r in a.recipes)]):
                if not isinstance(r, replay.Size):
                    self._base(r)
            self.sized = self._sized()
            for s, k in captured.told.items():
                self.told[str(s)] = len(self.items)
                self.items.append(Result("array", places[k]))
        self.returned = len(self.items)
        for effect in self.captured.effects:
            if not isinstance(effect.target, TensorSource):
                raise Inexpressible("it sets the gradient of an argument")
            if effect.recipe is not None and not _is_plain(effect.recipe):
                raise Inexpressible("a gradient that is a view")
            number = None if effect.recipe is None else self._base(effect.recipe)
            self.effects.append(Effect(effect.target.held, "_grad", number))
        if not flat or not all(map(_is_plain, recipes)) or actions:
            self.structure = _Finish(self.captured, self._known, self.sized, self.told)
        elif spec.kind is list:
            self.structure = partial(_listed, self.returned) if self.effects else list

    def _sized(self) -> dict[int, int]:
        """Where `_Finish` finds the arguments (by leaf) whose shapes tell the symbolic sizes that views are made with."""
        sizes = self.captured.sizes
        out: dict[int, int] = {}
        for leaf, _, _ in () if sizes is None else sizes.sources.values():
            if leaf not in out:
                out[leaf] = len(self.items)
                self.items.append(Result("argument", self.prefix + leaf))
        return out

    def _base(self, r: Recipe) -> int:
        """The place of what `r` is made from."""
        while isinstance(r, View):
            r = r.base
        known = self._known.get(id(r))
        return self._add(r) if known is None else known

    def _add(self, r: Any) -> int:
        self._known[id(r)] = len(self.items)
        self.items.append(self._result(r))
        return len(self.items) - 1

    def _result(self, r: Any) -> Result:
        n = self.prefix
        if isinstance(r, Fresh):
            place = self.places.get(r.output)
            if place is None:
                raise Inexpressible("a result without memory of its own")
            return Result("tensor" if r.kind == "tensor" else "array", place)
        if isinstance(r, Static):
            return Result("object", object=r.value)
        if isinstance(r, Leaf):
            return Result("argument", n + r.leaf)
        source = r.source
        if isinstance(source, (ArgSource, ScalarSource)):
            return Result("argument", n + source.leaf)
        if isinstance(source, GradSource):
            raise Inexpressible("it returns a gradient that was there before")
        return Result("object", object=source.held)


class _Finish:
    """Makes views and nested containers of the plain results."""

    __slots__ = ("captured", "places", "sized", "told")

    def __init__(self, captured: Captured, places: dict[int, int], sized: dict[int, int], told: dict[str, int]):
        self.captured, self.places, self.sized, self.told = captured, places, sized, told

    def __call__(self, results: tuple[Any, ...]) -> Any:
        made: dict[int, Any] = {}
        sizes: dict[str, int] = {name: results[k].shape[1] for name, k in self.told.items()}
        if self.captured.sizes is not None:
            sizes |= self.captured.sizes.bind({leaf: results[k] for leaf, k in self.sized.items()})
        leaves = [self._make(r, results, made, sizes) for r in self.captured.recipes]
        if self.captured.actions:
            steps = [a.prepare(lambda r: self._make(r, results, made, sizes), None) for a in self.captured.actions]
            for step in steps:
                step()
        return pytree.unflatten(self.captured.spec, leaves)

    def _make(self, r: Recipe, results: tuple[Any, ...], made: dict[int, Any], sizes: dict[str, int]) -> Any:
        found = made.get(id(r))
        if found is None:
            if isinstance(r, Composite):
                return r.build(lambda part: self._make(part, results, made, sizes), made, None)
            if isinstance(r, View):
                found = make_view(self._make(r.base, results, made, sizes), r, sizes)
            elif isinstance(r, replay.Size):
                return dim.evaluate(r.size, sizes)
            else:
                found = results[self.places[id(r)]]
                if isinstance(r, Fresh) and r.kind != "tensor":
                    found = as_kind(found, r.kind)
            made[id(r)] = found
        return found


def _listed(n: int, results: tuple[Any, ...]) -> list[Any]:
    return list(results[:n])


def _is_plain(r: Recipe) -> bool:
    """Whether native code makes it by itself."""
    return not isinstance(r, (View, Composite, replay.Size)) and not (
        isinstance(r, Fresh) and r.kind in ("number", "python")
    )
