"""Weights of a Swin image backbone from a file, whatever its names.

Known are the names of the official repository (``layers.0.blocks.0.mlp.fc1.weight``) and those of
mmdetection (``stages.0.blocks.0.ffn.layers.0.0.weight``), each behind any prefix (``backbone.`` in
a detector's file). Which one it is, is read off the keys, not taken from a flag.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor, nn

from anybev.engine.weights import LoadReport, fill, strip_wrapper

# The one key that each naming scheme has and the other has not.
_MARKERS = {"official": "patch_embed.proj.weight", "mmdet": "patch_embed.projection.weight"}

_OFFICIAL_TO_MMDET = (
    (r"^patch_embed\.proj\.", "patch_embed.projection."),
    (r"^layers\.", "stages."),
    (r"(\.blocks\.\d+)\.attn\.", r"\1.attn.w_msa."),
    (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
    (r"\.mlp\.fc2\.", ".ffn.layers.1."),
)

# Left over by design: the classifier and its norm, masks that are computed.
_NOT_OURS = ("head.*", "norm.*", "*.attn_mask")
# Not in files of classifiers: the norms of the maps that a detector takes.
_OUTPUT_NORMS = "norm[0-9].*"
_INDEX = "*relative_position_index"


@dataclass(frozen=True)
class SwinReport:
    """What `load_swin` did.

    Attributes:
        naming: ``official`` or ``mmdet``.
        prefix: what stood before the backbone's keys in the file.
        ignored: keys of the file that belong to other parts.
        entries: entries of the backbone.
        load: tensors loaded and left.
    """

    naming: str
    prefix: str
    ignored: tuple[str, ...]
    entries: int
    load: LoadReport

    def __str__(self) -> str:
        text = f"{self.load.loaded} of {self.entries} entries, {self.naming} names"
        if self.prefix:
            text += f" behind {self.prefix!r}"
        if self.load.missing:
            text += f"; left as they were: {', '.join(self.load.missing)}"
        if self.ignored:
            text += f"; {len(self.ignored)} keys of other parts ignored"
        return text


def find_swin(keys: Collection[str], source: Path | str) -> tuple[str, str]:
    """Naming scheme and prefix of the one Swin backbone in a file.

    Raises:
        ValueError: none, or several.
    """
    found = [
        (naming, key.removesuffix(marker))
        for key in keys
        for naming, marker in _MARKERS.items()
        if key == marker or key.endswith(f".{marker}")
    ]
    if len(found) == 1:
        return found[0]
    wanted = " or ".join(_MARKERS.values())
    got = ", ".join(repr(prefix + _MARKERS[naming]) for naming, prefix in found)
    first = ", ".join(sorted(keys)[:5])
    raise ValueError(
        f"load_swin: {source} must hold one Swin backbone ({wanted}, behind any prefix), got "
        + (got or f"none among {len(keys)} keys ({first} ...), so nothing would be filled")
    )


def official_to_mmdet(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The official repository's names and patch merging as mmdetection's.

    There, a merged patch is four blocks of C channels, one a cell, column by column; here channel c
    of the cell in row i, column j is at ``c * 4 + i * 2 + j``.
    """
    converted = {}
    for key, value in state_dict.items():
        if ".downsample." in key:
            value = _merge_by_channel(value)
        for pattern, ours in _OFFICIAL_TO_MMDET:
            key = re.sub(pattern, ours, key)
        converted[key] = value
    return converted


def _merge_by_channel(value: Tensor) -> Tensor:
    """(..., 4 C) from blocks (cell (0, 0), (1, 0), (0, 1), (1, 1)) to interleaved channels."""
    cells = value.unflatten(-1, (4, -1))
    by_row: Tensor = cells[..., [0, 2, 1, 3], :]
    return by_row.transpose(-1, -2).flatten(-2)


def load_swin(
    backbone: nn.Module, state_dict: Mapping[str, Tensor], source: Path | str
) -> SwinReport:
    """Fill a Swin backbone, or fail with what does not fit.

    Only the norms of the maps it gives out may be missing in the file: those of a classifier have
    none.

    Args:
        backbone: with mmdetection's names.
        state_dict: of a classifier, a detector or a backbone.
        source: name for messages.

    Raises:
        CheckpointMismatchError: keys or shapes differ; the backbone is unchanged.
        ValueError: the file holds no Swin backbone, or several.
    """
    found = strip_wrapper(state_dict)
    naming, prefix = find_swin(found, source)
    ours = {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)}
    ignored = [key for key in found if not key.startswith(prefix)]
    if naming == "official":
        ours = official_to_mmdet(ours)
    wanted = backbone.state_dict()
    extra = [key for key in ours if key not in wanted and _is_extra(key, _NOT_OURS, wanted)]
    report = fill(
        backbone,
        {key: value for key, value in ours.items() if key not in set(extra)},
        source,
        allow_missing=[_OUTPUT_NORMS, _INDEX],
    )
    return SwinReport(naming, prefix, (*ignored, *extra), len(wanted), report)


def _is_extra(key: str, patterns: Sequence[str], wanted: Mapping[str, torch.Tensor]) -> bool:
    """Whether a key may be left over: another part's, or the norm of a map not given out."""
    return any(fnmatchcase(key, pattern) for pattern in patterns) or (
        fnmatchcase(key, _OUTPUT_NORMS) and key not in wanted
    )
