"""What ``import spconv`` gives while the patches are applied: spconv 2's modules on AnyBEV.

Names, arguments, attributes and weights are those of spconv 2.3.8 (https://github.com/traveller59/
spconv, Apache-2.0); the code is not. Convolutions run on ``sparse_neighbors`` and ``sparse_conv``,
so on any device, and forwards as well as backwards without a compiler. What differs:

- Output sites are in ascending order of (batch, cells); spconv promises none.
- An index outside the grid, or there twice, is an error; spconv's results are undefined there.
- Weights of mmcv and spconv 1 (``[kernel, in, out]``) are recognised when they are loaded.
- ``algo``, ``fp32_accum`` and ``large_kernel_fast_algo`` choose among spconv's kernels: accepted,
  without effect.
- No quantised convolution, and none with groups; spconv has no groups either.
"""

from anybev.patches.spconv.core import ConvAlgo

__all__ = ["SPCONV_VERSION_NUMBERS", "ConvAlgo"]

__version__ = "2.3.8+anybev"
SPCONV_VERSION_NUMBERS = [2, 3, 8]
