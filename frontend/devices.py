"""Where tensors live."""

from __future__ import annotations

from typing import Any

DEVICES = ("cpu",)


def check_device(device: Any) -> None:
    """ValueError unless it is None or "cpu"."""
    if device is not None and device not in DEVICES:
        raise ValueError(f"tracefuse has no device {device!r}; its devices are {', '.join(DEVICES)}")


def is_device(x: Any) -> bool:
    """Whether x names a device, here or in other libraries: "cpu", "cuda:0"."""
    return isinstance(x, str) and x.split(":")[0] in ("cpu", "cuda", "gpu", "mps", "tpu", "xpu", "meta")
