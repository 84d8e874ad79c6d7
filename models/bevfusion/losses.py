"""Losses of the TransFusion head; every one computes in float32."""

import torch
from torch import Tensor, nn
from torch.nn import functional

# mmdet adds it to the divisor; kept so that published loss curves compare digit for digit.
_DIVISOR_EPS = torch.finfo(torch.float32).eps


def _only_mean(owner: str, reduction: str) -> None:
    if reduction != "mean":
        raise ValueError(f"{owner}: reduction must be mean, got {reduction!r}")


class FocalLoss(nn.Module):
    """Sigmoid focal loss over classes (Lin et al., ICCV 2017).

    Args:
        use_sigmoid: only True.
        gamma, alpha: focusing exponent and weight of the positives.
        reduction: only ``mean``.
        loss_weight: factor on the result.
    """

    def __init__(
        self,
        use_sigmoid: bool = True,
        gamma: float = 2.0,
        alpha: float = 0.25,
        reduction: str = "mean",
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        _only_mean("FocalLoss", reduction)
        if not use_sigmoid:
            raise ValueError("FocalLoss: use_sigmoid must be True, got False")
        self.gamma, self.alpha, self.loss_weight = gamma, alpha, loss_weight

    def forward(self, logits: Tensor, labels: Tensor, weights: Tensor, divisor: float) -> Tensor:
        """Weighted sum over rows and classes, divided.

        Args:
            logits: (N, C).
            labels: (N,) int64, C for background.
            weights: (N,).
            divisor: what the sum is divided by, at least 1.
        """
        logits = logits.float()
        classes = torch.arange(logits.shape[1], device=logits.device)
        target = (labels[:, None] == classes).to(logits.dtype)
        probability = logits.sigmoid()
        miss = (1 - probability) * target + probability * (1 - target)
        focus = (self.alpha * target + (1 - self.alpha) * (1 - target)) * miss**self.gamma
        loss = functional.binary_cross_entropy_with_logits(logits, target, reduction="none") * focus
        return self.loss_weight * (loss * weights[:, None]).sum() / (divisor + _DIVISOR_EPS)


class GaussianFocalLoss(nn.Module):
    """Focal loss against a map of Gaussian peaks (Law and Deng, CornerNet, ECCV 2018).

    Args:
        alpha: exponent on the prediction's error.
        gamma: exponent that spares cells near a peak.
        reduction: only ``mean``.
        loss_weight: factor on the result.
    """

    def __init__(
        self,
        alpha: float = 2.0,
        gamma: float = 4.0,
        reduction: str = "mean",
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        _only_mean("GaussianFocalLoss", reduction)
        self.alpha, self.gamma, self.loss_weight = alpha, gamma, loss_weight

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Sum over the map divided by the number of peaks (cells that are exactly 1).

        Args:
            logits: (B, C, X, Y).
            target: same shape, 0..1.
        """
        probability = logits.float().sigmoid().clamp(1e-4, 1 - 1e-4)
        peak = target == 1
        positive = -(probability + 1e-12).log() * (1 - probability) ** self.alpha * peak
        negative = -(1 - probability + 1e-12).log() * probability**self.alpha
        negative = negative * (1 - target.float()) ** self.gamma
        peaks = peak.sum().clamp(min=1)
        return self.loss_weight * (positive + negative).sum() / (peaks + _DIVISOR_EPS)


class L1Loss(nn.Module):
    """Weighted absolute error.

    Args:
        reduction: only ``mean``.
        loss_weight: factor on the result.
    """

    def __init__(self, reduction: str = "mean", loss_weight: float = 1.0) -> None:
        super().__init__()
        _only_mean("L1Loss", reduction)
        self.loss_weight = loss_weight

    def forward(
        self, prediction: Tensor, target: Tensor, weights: Tensor, divisor: float
    ) -> Tensor:
        """Weighted sum of absolute errors, divided; all tensors of one shape."""
        error = (prediction.float() - target).abs()
        return self.loss_weight * (error * weights).sum() / (divisor + _DIVISOR_EPS)
