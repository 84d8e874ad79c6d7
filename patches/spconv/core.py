"""Names of spconv's algorithms."""

from enum import Enum

__all__ = ["ConvAlgo"]


class ConvAlgo(Enum):
    """Which of spconv's kernels a layer would run; here they all run ``sparse_conv``."""

    Native = 0
    MaskImplicitGemm = 1
    MaskSplitImplicitGemm = 2
