"""`options=` of `compile`: limits of one compiled function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from .capture.tree import MOST_QUESTIONS, MOST_VALUES

FLAGS = frozenset(("cuda_graphs",))


@dataclass(frozen=True, slots=True)
class Options:
    """Limits of one compiled function; what goes beyond them runs as plain Python.

    max_traces: traces, before new signatures are not traced any more. max_branches: traces that differ only in the
    answers that Python got on the way. max_questions: of tensors, in one call. max_answers: to one question that asks for
    an int. budget_ms: milliseconds that `mode="max"` spends at most on timing the kernels of a graph. code_limit: bytes
    of machine code, beyond which traces that have not been called for longest are unloaded (None: only the process's
    limit, TRACEFUSE_CODE_LIMIT). cuda_graphs: whether calls on a GPU are replayed as CUDA graphs (None: where that is
    faster).
    """

    max_traces: int = 16
    max_branches: int = 256
    max_questions: int = MOST_QUESTIONS
    max_answers: int = MOST_VALUES
    budget_ms: float = 2000.0
    code_limit: int | None = None
    cuda_graphs: bool | None = None

    @staticmethod
    def of(given: Mapping[str, Any] | None) -> Options:
        """Checks what a user has given. ValueError names an unknown option, or a value out of range; TypeError another
        type."""
        if given is None:
            return Options()
        if not isinstance(given, Mapping):
            raise TypeError(f"options={given!r}: a dict is needed")
        known = {f.name: f.default for f in fields(Options)}
        for name, value in given.items():
            if name not in known:
                raise ValueError(f"option {name!r}: it is one of {', '.join(known)}")
            if value is None and known[name] is None:
                continue
            if name in FLAGS:
                if not isinstance(value, bool):
                    raise TypeError(f"option {name!r} is True, False or None, not {value!r}")
                continue
            number = (int, float) if isinstance(known[name], float) else int
            if isinstance(value, bool) or not isinstance(value, number):
                raise TypeError(
                    f"option {name!r} is a {'number' if number is not int else 'whole number'}, not {value!r}"
                )
            if not 0 <= value < float("inf"):
                raise ValueError(f"option {name!r} is {value!r}: it can't be negative or without end")
        return Options(**given)
