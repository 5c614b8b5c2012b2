"""What surrounds the passes of a chain: no autocast, kernels that return the same bits again, and no TF32."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch


@contextmanager
def conditions(device: torch.device) -> Iterator[None]:
    """Set what the passes need on a device, and afterwards what was set before."""
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        if device.type != "cuda":
            yield
            return
        cudnn: Any = torch.backends.cudnn
        before = cudnn.benchmark, cudnn.deterministic, cudnn.conv.fp32_precision
        try:
            cudnn.benchmark, cudnn.deterministic, cudnn.conv.fp32_precision = False, True, "ieee"
            with _exact_products():
                yield
        finally:
            cudnn.benchmark, cudnn.deterministic, cudnn.conv.fp32_precision = before


@contextmanager
def _exact_products() -> Iterator[None]:
    """Set products to float32, and afterwards what was set before, by the switch that it was set with.

    PyTorch has three. Where they disagree products are an error, and so is reading the older ones.
    """
    cublas: Any = torch.backends.cuda.matmul
    before: Any = cublas.fp32_precision
    restore: Callable[[Any], None] = partial(setattr, cublas, "fp32_precision")
    with suppress(RuntimeError):
        before, restore = cublas.allow_tf32, partial(setattr, cublas, "allow_tf32")
        before, restore = torch.get_float32_matmul_precision(), torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision("highest")  # which sets all three
    try:
        yield
    finally:
        restore(before)
