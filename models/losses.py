"""The loss on labelled cells.

B batch, K classes, N space.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED = -1


def masked_cross_entropy(
    logits_BKN: Tensor, target_BN: Tensor, weights_K: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Sum the weighted cross-entropy over the labelled cells.

    Parameters
    ----------
    logits_BKN, target_BN
        Logits [B, K, *N], and class indices [B, *N] of any integer type; -1 where there is no label.
    weights_K
        Weight of each class; none means 1.

    Returns
    -------
    tuple of Tensor
        Sum of weight times cross-entropy, and sum of weights: their quotient is the mean. Both are 0, with zero
        gradients, where nothing is labelled.
    """
    if target_BN.shape != (logits_BKN.shape[0], *logits_BKN.shape[2:]):
        raise ValueError(f"logits {list(logits_BKN.shape)} and target {list(target_BN.shape)} do not fit together")
    labelled = target_BN != IGNORED
    # Only the labelled cells are gathered: labels are sparse, volumes are large.
    target_M = target_BN[labelled].long()
    logits_MK = logits_BKN.movedim(1, -1)[labelled]
    logits_MK = logits_MK.to(torch.promote_types(logits_MK.dtype, torch.float32))
    loss_sum = F.cross_entropy(logits_MK, target_M, weight=weights_K, reduction="sum")
    if weights_K is None:
        return loss_sum, torch.tensor(float(target_M.numel()), device=loss_sum.device)
    return loss_sum, weights_K[target_M].sum()
