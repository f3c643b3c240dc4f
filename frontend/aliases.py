"""Lets `import tracefuse.nn.functional` find `tracefuse.frontend.nn.functional`: one module under two names."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from types import ModuleType

PUBLIC = frozenset(("nn", "optim", "data", "autograd", "func", "fft", "linalg", "random", "signal", "special"))


class _AliasFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, face: str, home: str):
        self.face, self.home = face, home

    def find_spec(self, fullname: str, path: object = None, target: object = None):
        package, _, rest = fullname.partition(".")
        if package != self.face or rest.split(".")[0] not in PUBLIC:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = importlib.import_module(self.home + spec.name[len(self.face) :])
        module.__dict__["__alias_spec__"] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """The module has run under its own name; the import system has just overwritten its spec."""
        module.__spec__ = module.__dict__.pop("__alias_spec__")


def install(face: str, home: str) -> None:
    """Makes `<face>.<name>` an alias of `<home>.<name>` for the names in PUBLIC."""
    if not any(isinstance(f, _AliasFinder) for f in sys.meta_path):
        sys.meta_path.insert(0, _AliasFinder(face, home))  # before the finder that would load a second copy
