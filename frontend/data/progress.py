"""A progress bar around a loader."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from .iteration import Pass

T = TypeVar("T")


def progress(loader: Iterable[T], **options: Any) -> Iterable[T]:
    """`for batch in data.progress(loader)`: shows how far the pass is, with tqdm where it is installed, else not at all.

    `options` go to `tqdm.auto.tqdm` (desc, leave, disable, ...). Breaking out of the loop ends the pass as usual.
    """
    try:
        from tqdm.auto import tqdm  # type: ignore[import-not-found]
    except ImportError:
        return loader
    return _Shown(loader, tqdm, options)


class _Shown(Iterable[T]):
    """Each pass gets a bar of its own, which starts where a resumed loader goes on."""

    def __init__(self, loader: Iterable[T], tqdm: Any, options: dict[str, Any]):
        self.loader, self.tqdm, self.options = loader, tqdm, options

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[T]:
        batches = iter(self.loader)
        done = batches.position.delivered if isinstance(batches, Pass) else 0
        try:
            total = len(self.loader)  # type: ignore[arg-type]
        except TypeError:
            total = None
        try:
            with self.tqdm(batches, **{"total": total, "initial": done, **self.options}) as bar:
                yield from bar
        finally:  # at once, although bars may be kept
            if isinstance(batches, Pass):
                batches.finish()
