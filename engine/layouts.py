"""Axis orders of sparse convolution weights, told apart by their shapes.

``krsc`` is [out, kx, ky, kz, in] (spconv from 2.2 on, and AnyBEV), ``rsck`` is [kx, ky, kz, in,
out] (spconv 1, mmcv, mit-han-lab/bevfusion), ``rskc`` is [kx, ky, kz, out, in] (spconv 2.0 and 2.1
with its native algorithm). Files carry no tag that tells.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

LAYOUTS = ("krsc", "rsck", "rskc")

_TO_KRSC = {"krsc": (0, 1, 2, 3, 4), "rsck": (4, 0, 1, 2, 3), "rskc": (3, 0, 1, 2, 4)}


def fitting_layouts(
    shape: Sequence[int], out: int, kernel: Sequence[int], channels: int | None = None
) -> frozenset[str]:
    """Layouts in which a weight of this shape has these sizes.

    Args:
        shape: of the weight as it is in a file.
        out: output channels.
        kernel: sizes along x, y and z.
        channels: input channels, where they are known.
    """
    if len(shape) != 5:
        return frozenset()
    fitting = set()
    for name, axes in _TO_KRSC.items():
        got_out, *got_kernel, got_channels = (shape[axis] for axis in axes)
        if got_out == out and got_kernel == list(kernel) and channels in (None, got_channels):
            fitting.add(name)
    return frozenset(fitting)


def agreed_layout(
    where: str,
    votes: Mapping[str, frozenset[str]],
    shapes: Mapping[str, Sequence[int]],
    option: str,
) -> str | None:
    """The one layout of all weights of a file.

    A weight whose shape fits no layout says nothing.

    Args:
        where: what is being done, for messages.
        votes: key -> layouts that its shape fits.
        shapes: key -> shape in the file.
        option: how a user says the layout, for messages: ``--layout {}``.

    Returns:
        A name of ``LAYOUTS``, or None when no weight fits any.

    Raises:
        ValueError: the weights contradict each other, or fit several layouts.
    """
    votes = {key: layouts for key, layouts in votes.items() if layouts}
    if not votes:
        return None
    agreed = [name for name in LAYOUTS if all(name in layouts for layouts in votes.values())]
    if len(agreed) == 1:
        return agreed[0]
    if agreed:
        key = next(iter(votes))
        fits = " and ".join((", ".join(agreed[:-1]), agreed[-1])).upper().replace(" AND ", " and ")
        raise ValueError(
            f"{where}: sparse weights must show their layout by their shape, got {key} "
            f"{list(shapes[key])} that fits {fits} alike; try "
            + " or ".join(option.format(name) for name in agreed)
        )
    examples: dict[str, str] = {}
    for key, layouts in votes.items():
        examples.setdefault(" or ".join(name.upper() for name in sorted(layouts)), key)
    raise ValueError(
        f"{where}: sparse weights must be of one layout, got "
        + " and ".join(f"{key} in {names}" for names, key in sorted(examples.items()))
    )


def to_krsc(weight: Tensor, layout: str) -> Tensor:
    """The weight with its axes as [out, kx, ky, kz, in]."""
    return weight.permute(_TO_KRSC[layout])
