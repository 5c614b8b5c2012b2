"""Matrix products and convolutions by the fastest kernel at hand.

PyTorch hands float32 products on the CPU to MKL, which leaves half of an AVX-512 core of another maker idle (95 against
190 GFLOP/s a core on an EPYC), and small convolutions on one thread to a slow path. oneDNN, which PyTorch brings along,
does neither; where gradients are recorded or the device is another, the public functions serve.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

_CONVOLVE = {2: F.conv2d, 3: F.conv3d}
_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _onednn_serves(*tensors: Tensor) -> bool:
    return (
        _ONEDNN
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)
    )


def multiply(a_MK: Tensor, b_NK: Tensor) -> Tensor:
    """Return a b^T: [M, N] for a [M, K] and b [N, K], either of them possibly a transposed view."""
    if _onednn_serves(a_MK, b_NK):
        return torch.ops.mkldnn._linear_pointwise(a_MK, b_NK, None, "none", [], "")
    return a_MK @ b_NK.T


def convolve(x_BCN: Tensor, weight: Tensor, padding: list[int]) -> Tensor:
    """Convolve an image or volume [B, C, *N], channels-last in memory, with weight [r, C, *taps] and stride 1."""
    if _onednn_serves(x_BCN, weight):
        ones = [1] * len(padding)
        return torch.mkldnn_convolution(x_BCN, weight, None, padding, ones, ones, 1)
    return _CONVOLVE[len(padding)](x_BCN, weight, padding=padding)
