"""Everything that random numbers depend on, as one value that can be saved: tracefuse's, NumPy's and Python's
generators, and others by hand."""

from __future__ import annotations

import random as python_random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from . import random


def global_state() -> dict[str, Any]:
    """The states of the default generators of tracefuse, NumPy and Python: arrays, numbers and strings."""
    version, words, gauss = python_random.getstate()
    return {
        "tracefuse": random.get_rng_state(),
        "numpy": np.random.get_state(legacy=False),
        "python": [version, np.array(words, np.uint64), gauss],
    }


def set_global_state(saved: Mapping[str, Any]) -> None:
    """Goes on from a state that `global_state` gave."""
    version, words, gauss = saved["python"]
    python_random.setstate((version, tuple(map(int, words)), gauss))
    np.random.set_state(saved["numpy"])
    random.set_rng_state(saved["tracefuse"])


def generator_state(generator: Any) -> Any:
    """The state of a tracefuse or NumPy generator."""
    return generator.get_state() if hasattr(generator, "get_state") else generator.bit_generator.state


def set_generator_state(generator: Any, saved: Any) -> None:
    """Lets a generator go on from `saved`. ValueError if that is the state of one of another kind."""
    with suppress(TypeError, ValueError, KeyError):
        if hasattr(generator, "set_state"):
            generator.set_state(saved)
        else:
            generator.bit_generator.state = saved
        return
    raise ValueError(f"the saved state of a random generator does not fit a {type(generator).__name__}")


def states(generators: Sequence[Any]) -> dict[str, Any]:
    """The default generators and `generators`."""
    return {**global_state(), "generators": [generator_state(g) for g in generators]}


def set_states(saved: Mapping[str, Any], generators: Sequence[Any]) -> None:
    """Goes on from what `states` gave for as many generators."""
    set_global_state(saved)
    for generator, state in zip(generators, saved["generators"], strict=True):
        set_generator_state(generator, state)
