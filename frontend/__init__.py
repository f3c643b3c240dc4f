"""What users touch: tensors, autograd, nn, optim, data, capture."""

from . import functions  # noqa: F401  first: tensors and the functions on them need each other, in this order of imports
