"""The command line: `tracefuse demo | bench | explain | run | view | cache | doctor`."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from . import nn as _nn  # noqa: F401  (what `explain` imports may say `tracefuse.nn` right away)


class CommandError(Exception):
    """What the user asked for can't be done. The message says why."""


# ------------------------------------------------------------------ commands


def _demo(a: argparse.Namespace) -> int:
    from .demo import DemoError, main

    try:
        return main(a.epochs, a.output, a.json, a.quiet)
    except DemoError as e:
        raise CommandError(str(e)) from None


def _bench(a: argparse.Namespace) -> int:
    from .benchmark import benchmark, milliseconds
    from .workloads import WORKLOADS

    unknown = sorted(set(a.names) - {w.name for w in WORKLOADS})
    if unknown:
        raise CommandError(f"there is no workload {unknown[0]!r}; there are {', '.join(w.name for w in WORKLOADS)}")
    chosen = [w for w in WORKLOADS if not a.names or w.name in a.names]
    results = {}
    if not a.json:
        print(f"{'workload':<12} {'eager':>9} {'compiled':>9} {'speedup':>8} {'compile':>9} {'error':>8}")
    for w in chosen:
        function, arguments = w.make()
        r = results[w.name] = benchmark(function, *arguments, seconds=a.seconds)
        if not a.json:
            times = f"{milliseconds(r.eager_ms):>9} {milliseconds(r.compiled_ms):>9} {r.speedup:>7.1f}x"
            print(
                f"{w.name:<12} {times} {milliseconds(r.compile_ms):>9} {r.max_rel_error:>8.1g}  {w.about}", flush=True
            )
    if a.json:
        print(json.dumps({name: r.to_dict() for name, r in results.items()}, indent=2))
    return 0 if all(r.compiled for r in results.values()) else 1


def _explain(a: argparse.Namespace) -> int:
    from .explain import explain

    function = _find(a.target)
    arguments = _arguments(a.args)
    found = explain(function, *arguments)
    if a.html:
        Path(a.html).write_text(found.to_html(), encoding="utf-8")
    elif a.json:
        print(json.dumps(found.to_dict(), indent=2))
    else:
        print(found.summary() if a.summary else found)
    return 1 if found.reason else 0


def _run(a: argparse.Namespace) -> int:
    import numpy as np

    program = _load(a.program)
    try:
        outputs = program(*_program_arguments(program, a.inputs))
    except (TypeError, ValueError, IndexError) as e:
        raise CommandError(str(e)) from None
    from .capture import pytree

    arrays = [np.asarray(x) for x in pytree.flatten(outputs)[0]]
    if a.output is None:
        for x in arrays:
            print(x)
    elif len(arrays) == 1 and a.output.suffix != ".npz":
        with open(a.output, "wb") as file:
            np.save(file, arrays[0])
    else:
        with open(a.output, "wb") as file:
            named: dict[str, Any] = {f"output{k}": x for k, x in enumerate(arrays)}
            np.savez(file, **named)
    return 0


def _view(a: argparse.Namespace) -> int:
    print(_load(a.program))
    return 0


def _cache(a: argparse.Namespace) -> int:
    from ..runtime import knobs
    from ..runtime.cache import disk_cache

    cache = disk_cache("")
    if cache.folder is None:
        print("the disk cache is switched off (TRACEFUSE_CACHE_DIR=off)")
        return 0
    count, total = cache.size()
    if a.clear:
        cache.clear()
        print(f"removed {count} entries, {total / 1e6:.1f} MB, from {cache.folder}")
    else:
        limit = knobs.number("TRACEFUSE_CACHE_LIMIT", 1 << 30)
        print(f"{cache.folder}: {count} entries, {total / 1e6:.1f} MB of at most {limit / 1e6:.0f} MB")
    return 0


def _doctor(a: argparse.Namespace) -> int:
    from .doctor import checks, report

    found = checks()
    print(json.dumps(found, indent=2) if a.json else report(found))
    return 0 if found["ok"] else 1


# ------------------------------------------------------------------ their arguments


def _find(target: str) -> Any:
    """The object that `module:name` or `file.py:name` means."""
    place, colon, name = target.rpartition(":")
    if not colon or not place or not name:
        raise CommandError(f"{target!r} is not of the form module:function or file.py:function")
    try:
        module = _module_from(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except ImportError as e:
        raise CommandError(f"can't import {place}: {e}") from None
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise CommandError(f"{place} has no {name}")
        found = getattr(found, part)
    if not callable(found):
        raise CommandError(f"{target} is a {type(found).__name__}, not a function or a Module")
    return found


def _module_from(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise CommandError(f"there is no file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _arguments(text: str) -> tuple:
    """What `--args` says: Python expressions between commas, over `tr` and `np`."""
    import numpy as np

    import tracefuse as tr  # what users write

    if not text.strip():
        return ()
    try:
        return tuple(eval(f"({text},)", {"tr": tr, "np": np}))
    except Exception as e:
        raise CommandError(f"--args {text!r}: {type(e).__name__}: {e}") from None


def _load(path: Path) -> Any:
    from .program import InvalidProgram, load

    try:
        return load(path)
    except InvalidProgram as e:
        raise CommandError(str(e)) from None
    except OSError as e:
        raise CommandError(f"can't read {path}: {e.strerror or e}") from None


def _program_arguments(program: Any, given: list[str]) -> list[Any]:
    """One argument for each word: a .npy file, or a Python literal."""
    import ast

    import numpy as np

    out: list[Any] = []
    for word in given:
        if word.endswith(".npy"):
            try:
                out.append(np.load(word, allow_pickle=False))
            except (OSError, ValueError) as e:
                raise CommandError(f"can't read {word}: {e}") from None
            continue
        try:
            out.append(ast.literal_eval(word))
        except (ValueError, SyntaxError):
            raise CommandError(f"{word!r} is neither a .npy file nor a Python literal") from None
    if len(out) != len(program.arguments):
        needed = ", ".join(f"{path}: {kind}" for path, kind in program.arguments)
        raise CommandError(f"{program.name} takes {len(program.arguments)} inputs ({needed}), not {len(out)}")
    return out


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    p = argparse.ArgumentParser("tracefuse", description="A tracing compiler for array programs and neural networks.")
    commands = p.add_subparsers(required=True, metavar="command")

    c = commands.add_parser("demo", help="train a conv net on digits, eagerly and compiled, and compare")
    c.add_argument("--epochs", type=int, default=20)
    c.add_argument("--output", type=Path, default=Path("demo.png"), help="where the picture goes")
    c.add_argument("--json", action="store_true", help="print one JSON object")
    c.add_argument("--quiet", action="store_true", help="no progress display")
    c.set_defaults(run=_demo)

    c = commands.add_parser("bench", help="time typical programs, eager and compiled")
    c.add_argument("names", nargs="*", metavar="workload", help="some of the workloads (default: all)")
    c.add_argument("--seconds", type=float, default=1.0, help="for each workload")
    c.add_argument("--json", action="store_true")
    c.set_defaults(run=_bench)

    c = commands.add_parser("explain", help="show what compiling a function makes of it")
    c.add_argument("target", metavar="module:function", help="or file.py:function")
    c.add_argument("--args", default="", help="the call's arguments, as Python: 'tr.rand(8, 8), 0.5'")
    c.add_argument("--summary", action="store_true", help="without graphs and kernel texts")
    c.add_argument("--json", action="store_true")
    c.add_argument("--html", metavar="FILE", help="write a page that stands alone")
    c.set_defaults(run=_explain)

    c = commands.add_parser("run", help="run an exported program")
    c.add_argument("program", type=Path, metavar="file.tfx")
    c.add_argument("inputs", nargs="*", metavar="input", help="a .npy file, or a number, for each argument")
    c.add_argument("--output", type=Path, help=".npy for one result, .npz for several (default: print them)")
    c.set_defaults(run=_run)

    c = commands.add_parser("view", help="print an exported program")
    c.add_argument("program", type=Path, metavar="file.tfx")
    c.set_defaults(run=_view)

    c = commands.add_parser("cache", help="show or clear the cache of compiled kernels")
    c.add_argument("--clear", action="store_true")
    c.set_defaults(run=_cache)

    c = commands.add_parser("doctor", help="show versions, target, threads, cache and settings")
    c.add_argument("--json", action="store_true")
    c.set_defaults(run=_doctor)
    return p


def main(arguments: list[str] | None = None) -> int:
    """Runs a command. Exit status 0: all is well; 1: the command says what is not; 2: it could not be done."""
    given = parser().parse_args(arguments)
    try:
        return given.run(given)
    except CommandError as e:
        print(f"tracefuse: {e}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader has seen enough
        sys.stderr.close()
        return 0


if __name__ == "__main__":
    sys.exit(main())
