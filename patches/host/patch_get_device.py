"""mmengine asks the machine once, at import; AnyBEV lets a user choose the device."""

from collections.abc import Callable

from anybev import envs
from anybev.device import current_backend


def replace(original: Callable[[], str]) -> Callable[[], str]:
    """``mmengine.device.get_device`` follows ``ANYBEV_BACKEND`` and what AnyBEV finds.

    Upstream takes npu, then cuda, then others, then the CPU, as found when mmengine was imported:
    a machine with a GPU cannot train on its CPU but by hiding the GPU. Without ``ANYBEV_BACKEND``
    the answer is upstream's.
    """

    def get_device() -> str:
        found = original()
        # Of a device that AnyBEV does not know it has no say.
        return current_backend().device_type if found in envs.BACKENDS else found

    return get_device
