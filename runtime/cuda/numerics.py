"""What the results of GPUs depend on besides programs and data: settings of the process."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...ir.target import Target

PRODUCTS = {"highest": "tf32x3", "high": "tf32", "medium": "tf32"}  # by PyTorch's names


@dataclass
class Numerics:
    """float32_products: how matmul and convolution multiply float32: "highest" (in three parts of TF32, as exact as float32),
    "high" and "medium" (rounded to TF32's 10 bits first). deterministic: equal calls give equal bits; False: sums of floats
    that are scattered may be added up in any order."""

    float32_products: str = "highest"
    deterministic: bool = True

    @property
    def key(self) -> tuple[str, bool]:
        """What traces and kernels depend on."""
        return self.float32_products, self.deterministic

    def target(self, target: Target) -> Target:
        """A target with these settings."""
        return replace(target, precision=PRODUCTS[self.float32_products], unordered_sums=not self.deterministic)


numerics = Numerics()
