"""Matrix products and convolutions by the fastest kernel at hand.

PyTorch hands float32 products on the CPU to MKL, which leaves half of an AVX-512 core of another maker idle (95 against
190 GFLOP/s a core on an EPYC), and small convolutions on one thread to a slow path. oneDNN, which PyTorch brings along,
does neither; where gradients are recorded or the device is another, the public functions serve.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

_CONVOLVE = {2: F.conv2d, 3: F.conv3d}
_PIECE = 2**20  # elements of a product that are computed at once: 4 MB, below malloc's threshold for fresh pages
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


def add_product(y_MN: Tensor, a_MK: Tensor, b_NK: Tensor) -> None:
    """Add a b^T to y in place.

    oneDNN cannot add, so there the product is taken in pieces along the longer axis: no second state is allocated, and
    a piece is still in the cache when it is added.
    """
    if _onednn_serves(y_MN, a_MK, b_NK):
        pieces = -(-y_MN.numel() // _PIECE)
        if y_MN.shape[0] >= y_MN.shape[1]:
            for y, a in zip(y_MN.chunk(pieces), a_MK.chunk(pieces), strict=True):
                y.add_(multiply(a, b_NK))
        else:
            for y, b in zip(y_MN.chunk(pieces, dim=1), b_NK.chunk(pieces), strict=True):
                # A strided piece would fall to oneDNN's reference kernel; copied along its rows it is dense again.
                y.add_(multiply(a_MK, b.T.contiguous().T))
    elif y_MN.dtype == a_MK.dtype:
        y_MN.addmm_(a_MK, b_NK.T)
    else:
        y_MN.add_(a_MK @ b_NK.T)


def convolve(x_BCN: Tensor, weight: Tensor, padding: list[int]) -> Tensor:
    """Convolve an image or volume [B, C, *N], channels-last in memory, with weight [r, C, *taps] and stride 1."""
    if _onednn_serves(x_BCN, weight):
        ones = [1] * len(padding)
        return torch.mkldnn_convolution(x_BCN, weight, None, padding, ones, ones, 1)
    return _CONVOLVE[len(padding)](x_BCN, weight, padding=padding)


def add_convolution(y_BrN: Tensor, x_BCN: Tensor, weight: Tensor, padding: list[int]) -> None:
    """Add the convolution of x to y in place, where possible without a second tensor of y's size."""
    if _onednn_serves(y_BrN, x_BCN, weight):
        ones = [1] * len(padding)
        result = torch.ops.mkldnn._convolution_pointwise_.binary(
            y_BrN, x_BCN, weight, None, padding, ones, ones, 1, "add", 1.0, None, [], None
        )
        if result.data_ptr() != y_BrN.data_ptr():  # oneDNN preferred another layout and worked on a copy
            y_BrN.copy_(result)
    else:
        y_BrN.add_(_CONVOLVE[len(padding)](x_BCN, weight, padding=padding))
