"""Matrix products and convolutions by the fastest kernel at hand.

PyTorch hands float32 products on the CPU to MKL, which leaves half of an AVX-512 core of another maker idle, and small
convolutions on one thread to a slow path. Its oneDNN does neither; elsewhere the public functions serve.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

_CONVOLVE = {2: F.conv2d, 3: F.conv3d}
ONEDNN_LEAST = 20480
"""Elements of one sample, its last axis not counted, up to which PyTorch differentiates a convolution by itself."""
_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
_LANES = 16
"""Numbers in single precision that a vector of AVX-512 holds."""


def onednn_serves(*tensors: Tensor) -> bool:
    """Tell whether tensors are worked on by oneDNN: in float32 on a CPU, where nothing differentiates or compiles."""
    return (
        _ONEDNN
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)
    )


def _by_single(x: Tensor) -> bool:
    """Tell whether to take float32: on a CPU, PyTorch's own kernels for float16 take up to 200 times as long."""
    return x.dtype == torch.float16 and x.device.type == "cpu" and not torch.compiler.is_exporting()


def multiply(a_MK: Tensor, b_NK: Tensor) -> Tensor:
    """Return a b^T: [M, N] for a [M, K] and b [N, K], either of them possibly a transposed view."""
    if _by_single(a_MK):
        return multiply(a_MK.float(), b_NK.float()).half()
    if onednn_serves(a_MK, b_NK):
        if a_MK.stride(0) == 1:  # PyTorch turns it, which takes long where its columns lie powers of two apart
            a_MK = a_MK.T.contiguous().T
        return torch.ops.mkldnn._linear_pointwise(a_MK, b_NK, None, "none", [], "")
    return a_MK @ b_NK.T


def add_product(y_MN: Tensor, a_MK: Tensor, b_NK: Tensor) -> None:
    """Add a b^T to y in place; oneDNN cannot add, so y should be a piece that fits into the cache."""
    if y_MN.dtype == a_MK.dtype and not onednn_serves(y_MN, a_MK, b_NK):
        y_MN.addmm_(a_MK, b_NK.T)
    else:
        y_MN.add_(multiply(a_MK, b_NK))


def cells_at_once(width: int, rank: int, dtype: torch.dtype, device: str) -> int:
    """Return of how many neighbouring cells of the last axis, `width` long, a convolution to few channels is taken.

    To 8 channels it leaves half of a vector idle. With a stride of two cells, and the channels of both by a kernel one
    tap wider, it takes 0.7 of the time (0.6 to 4 channels) in either precision, and gives the same. A whole row is not
    taken at once: of one channel, oneDNN's result is wrong.
    """
    serves = device == "cpu" and _ONEDNN and torch.backends.cpu.get_cpu_capability() == "AVX512"
    few = dtype in (torch.float32, torch.bfloat16) and _LANES % rank == 0
    cells = math.gcd(width, _LANES // rank) if serves and few else 1
    return cells if cells < width else 1


def for_cells(weight: Tensor, cells: int) -> Tensor:
    """Return the weight that gives some neighbouring cells at once: [cells r, C, *taps, taps + cells - 1]."""
    return torch.cat([F.pad(weight, [cell, cells - 1 - cell]) for cell in range(cells)]) if cells > 1 else weight


def convolve(x_BCN: Tensor, weight: Tensor, padding: list[int], groups: int = 1, cells: int = 1) -> Tensor:
    """Convolve an image or volume [B, C, *N], channels-last in memory, with weight [r, C / groups, *taps], stride 1.

    A weight may be that of some `cells` at once.
    """
    if _by_single(x_BCN) or _unwritten(x_BCN, weight, padding, groups):
        return convolve(x_BCN.float(), weight.float(), padding, groups, cells).to(x_BCN.dtype)
    strides = [1] * (len(padding) - 1) + [cells]
    if onednn_serves(x_BCN, weight):
        ones = [1] * len(padding)
        y_BrN = torch.mkldnn_convolution(x_BCN, weight, None, padding, strides, ones, groups)
    else:
        # Some of PyTorch's slower kernels refuse to differentiate by a weight that is a view.
        weight = weight.contiguous() if torch.is_grad_enabled() else weight
        y_BrN = _CONVOLVE[len(padding)](x_BCN, weight, None, strides, padding, 1, groups)
    if cells == 1:
        return y_BrN
    return y_BrN.movedim(1, -1).unflatten(-1, (cells, -1)).flatten(-3, -2).movedim(-1, 1)


def _unwritten(x_BCN: Tensor, weight: Tensor, padding: list[int], groups: int) -> bool:
    """Tell whether oneDNN leaves some of a result unwritten: of volumes of one cell along an axis, in bfloat16."""
    if x_BCN.dtype != torch.bfloat16 or x_BCN.dim() < 5 or groups not in (x_BCN.shape[1], weight.shape[0]):
        return False
    sizes = zip(x_BCN.shape[2:], padding, weight.shape[2:], strict=True)
    return torch.compiler.is_exporting() or any(1 in (n, n + 2 * ends - taps + 1) for n, ends, taps in sizes)


def add_convolution(y_BrN: Tensor, x_BCN: Tensor, weight: Tensor, padding: list[int], groups: int = 1) -> None:
    """Add the convolution of x to y in place, where possible without a second tensor of y's size."""
    if onednn_serves(y_BrN, x_BCN, weight):
        ones = [1] * len(padding)
        result = torch.ops.mkldnn._convolution_pointwise_.binary(
            y_BrN, x_BCN, weight, None, padding, ones, ones, groups, "add", 1.0, None, [], None
        )
        if result.data_ptr() != y_BrN.data_ptr():  # oneDNN preferred another layout and worked on a copy
            y_BrN.copy_(result)
    else:
        y_BrN.add_(convolve(x_BCN, weight, padding, groups))


def convolution_weight_gradient(
    x_BCN: Tensor, z_BrN: Tensor, shape: torch.Size, padding: list[int], groups: int = 1
) -> Tensor:
    """Return the gradient of <convolve(x, weight), z> with respect to the weight, of `shape` [r, C / groups, *taps]."""
    thinner = len(shape) == 5 and min(z_BrN.shape[2:]) < shape[2] // 2  # than the reach: oneDNN leaves taps unwritten
    if (x_BCN.dtype.itemsize == 2 and thinner) or x_BCN.dtype == torch.float16:  # whose sums end at 65504
        x_BCN, z_BrN = x_BCN.float(), z_BrN.float()
    rows, edge = padding[0], shape[2]
    if len(shape) == 5 and x_BCN.dtype == torch.bfloat16 and (x_BCN.shape[2] < edge or rows > edge // 2):
        # oneDNN's gradient is wrong, and it writes where it should not.
        x_BCN, padding = F.pad(x_BCN, [0, 0, 0, 0, rows, rows]), [0, *padding[1:]]
    if _misses_onednn(x_BCN, z_BrN, shape, groups):
        x_BCN, z_BrN, padding = _as_two_samples(x_BCN, z_BrN, padding)
    weight = x_BCN.new_empty(shape)  # only its shape is read
    ones, zeros = [1] * len(padding), [0] * len(padding)
    _, gradient, _ = torch.ops.aten.convolution_backward(
        z_BrN, x_BCN, weight, None, ones, padding, ones, False, zeros, groups, [False, True, False]
    )
    return gradient


def exchanges(channels: int, rank: int, dtype: torch.dtype, device: str) -> bool:
    """Tell whether the gradient of K: C -> r is faster as that of K^T, whose input is the thin hidden tensor.

    The channels of the outcome lie in vectors. Measured with oneDNN on AVX-512, the way that fills them better takes
    0.5 to 0.9 of the time; in float32 9 to 15 channels of the input take twice as long. On AVX2 K^T takes 0.4 to 0.7.
    """
    if device != "cpu":
        return False  # not measured
    if torch.backends.cpu.get_cpu_capability() == "AVX2":
        return True
    single = dtype != torch.bfloat16
    k, transposed = _filled(channels, rank, single), _filled(rank, channels, single)
    return transposed > k or (transposed == k and not single)


def _filled(inputs: int, outputs: int, single: bool) -> float:
    share = outputs / _LANES / math.ceil(outputs / _LANES)
    return share / 2 if single and 8 < inputs < 16 else share


def _misses_onednn(x_BCN: Tensor, z_BrN: Tensor, shape: torch.Size, groups: int) -> bool:
    """Tell whether a gradient, of one small sample, goes to PyTorch's own kernel, two to seven times slower."""
    small = x_BCN.shape[0] == 1 and x_BCN.shape[:4].numel() <= ONEDNN_LEAST and groups == 1 and max(shape[2:]) <= 3
    worth = x_BCN.dim() == 5 or x_BCN.numel() + z_BrN.numel() > 49152
    return small and worth and onednn_serves(x_BCN) and x_BCN.shape[2] > 1


def _as_two_samples(x_BCN: Tensor, z_BrN: Tensor, padding: list[int]) -> tuple[Tensor, Tensor, list[int]]:
    """Cut a sample into two along its first axis of space, the input with its halo: the gradient is the same."""
    odd = z_BrN.shape[2] % 2
    ends = [0] * (2 * (x_BCN.dim() - 3))
    if padding[0] or odd:
        x_BCN = F.pad(x_BCN, [*ends, padding[0], padding[0] + odd])
    if odd:
        z_BrN = F.pad(z_BrN, [*ends, 0, odd])
    rows, halo = z_BrN.shape[2] // 2, x_BCN.shape[2] - z_BrN.shape[2]
    x_two = torch.cat([x_BCN[:, :, : rows + halo], x_BCN[:, :, rows:]])
    z_BNr = z_BrN.movedim(1, -1)
    z_two = z_BNr.reshape(2, rows, *z_BNr.shape[2:]).movedim(-1, 1)  # the same memory, as rows are its outermost axis
    return x_two, z_two, [0, *padding[1:]]
