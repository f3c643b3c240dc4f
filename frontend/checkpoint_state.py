"""Training that can be interrupted: everything it depends on in one file, and back.

    tr.save_checkpoint("run.ckpt", model=net, optimizer=opt, scheduler=sched, loader=loader, step=step)
    step = tr.load_checkpoint("run.ckpt", model=net, optimizer=opt, scheduler=sched, loader=loader)["step"]

Training that goes on from such a file computes the same bits as if it had never stopped: random generators go on where
they were, and a loader with the batch that comes next.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from . import random_state, serialize
from .tensor_file import InvalidTensorFile

_VERSION = 1
_KEYS = {"checkpoint", "parts", "random"}


def save_checkpoint(path: str | os.PathLike[str], /, *, rng: bool = True, **parts: Any) -> None:
    """Writes the state of `parts` under their names; the old file at `path` stays until the new one is whole.

    A part is anything with `state_dict()` (modules, optimizers, schedulers, loaders), a random generator, a value that
    `tr.save` takes, or a dict, list or tuple of those. rng: with the default generators of tracefuse, NumPy and Python.
    TypeError names what cannot be saved.
    """
    state = {
        "checkpoint": _VERSION,
        "parts": {name: _state_of(part) for name, part in parts.items()},
        "random": random_state.global_state() if rng else None,
    }
    serialize.save(state, path)


def load_checkpoint(path: str | os.PathLike[str], /, *, rng: bool = True, **parts: Any) -> dict[str, Any]:
    """Loads what `save_checkpoint` wrote into the parts given by name, in place; the other parts are returned, modules
    and optimizers among them as state dicts. rng: the default random generators go on where they were, too.

    InvalidTensorFile if the file is damaged or no checkpoint, KeyError if it lacks a part, TypeError for a part that
    cannot be loaded into: all of these before anything is changed. What a part's own `load_state_dict` raises comes
    through, with a note that names the part; the parts before it are loaded then.
    """
    found = serialize.load_tensors(path)
    if not isinstance(found, dict) or found.keys() != _KEYS or not isinstance(found["parts"], dict):
        raise InvalidTensorFile(f"{os.fspath(path)}: not a checkpoint of tr.save_checkpoint; try tr.load")
    if found["checkpoint"] != _VERSION:
        raise InvalidTensorFile(
            f"{os.fspath(path)}: a checkpoint of version {found['checkpoint']}, this tracefuse reads {_VERSION}"
        )
    saved = found["parts"]
    missing = [name for name in parts if name not in saved]
    if missing:
        raise KeyError(f"{os.fspath(path)} has no {', '.join(missing)}; its parts are {', '.join(saved)}")
    for name, part in parts.items():
        _check(part, saved[name], name)
    for name, part in parts.items():
        _restore(part, saved[name], name)
    if rng and found["random"] is not None:
        random_state.set_global_state(found["random"])
    return {name: value for name, value in saved.items() if name not in parts}


def _is_generator(x: Any) -> bool:
    return hasattr(x, "get_state") and hasattr(x, "set_state") or hasattr(x, "bit_generator")


def _state_of(x: Any) -> Any:
    if hasattr(x, "state_dict"):
        return x.state_dict()
    if _is_generator(x):
        return random_state.generator_state(x)
    if isinstance(x, Mapping):
        return {key: _state_of(value) for key, value in x.items()}
    if isinstance(x, (list, tuple)):
        items = [_state_of(value) for value in x]
        return tuple(items) if isinstance(x, tuple) else items
    return x


def _check(part: Any, saved: Any, name: str) -> None:
    """TypeError if `part` cannot take a state, ValueError if its structure is another one."""
    if hasattr(part, "load_state_dict") or _is_generator(part):
        return
    if isinstance(part, Mapping):
        if not isinstance(saved, dict) or part.keys() != saved.keys():
            raise ValueError(f"{name}: a dict with the keys {list(part)} is given, the checkpoint has another")
    elif isinstance(part, (list, tuple)):
        if not isinstance(saved, (list, tuple)) or len(part) != len(saved):
            raise ValueError(f"{name}: {len(part)} items are given, the checkpoint has other ones")
    else:
        raise TypeError(
            f"{name}: a {type(part).__name__} cannot be loaded into; leave it out, its value is in what is returned"
        )
    for key in part if isinstance(part, Mapping) else range(len(part)):
        _check(part[key], saved[key], f"{name}.{key}")


def _restore(part: Any, saved: Any, name: str) -> None:
    load = getattr(part, "load_state_dict", None)
    if load is None and not _is_generator(part):
        for key in part if isinstance(part, Mapping) else range(len(part)):
            _restore(part[key], saved[key], f"{name}.{key}")
        return
    try:
        if load is not None:
            load(saved)
        else:
            random_state.set_generator_state(part, saved)
    except Exception as e:
        e.add_note(f"while the part {name!r} of a checkpoint was loaded")
        raise
