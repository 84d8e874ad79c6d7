"""What ``mmcv._ext`` says about how it was built: it was not."""

from anybev.patches.ext._table import supplies


@supplies()
def get_compiler_version() -> str:
    """Say that no compiler was involved; printed by mmengine's environment report."""
    return "none (supplied by anybev)"


@supplies()
def get_compiling_cuda_version() -> str:
    """Answer as an mmcv that was built without CUDA does."""
    return "not available"
