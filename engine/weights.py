"""Fills a model with a checkpoint's weights, whole or not at all."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor, nn

from anybev.engine.layouts import LAYOUTS, agreed_layout, fitting_layouts, to_krsc

_SHOWN = 10
_MIT_NAMES = ("encoders.camera.", "encoders.lidar.", "heads.object.")
_WRAPPER = "module."  # what distributed data parallel puts before every key

# Computed from the config: a file's must agree with the model's, which stay; counts exactly.
_COUNTS = ("*relative_position_index", "*view_transform.nx")
_CONSTANTS = (
    *_COUNTS,
    "*view_transform.dx",
    "*view_transform.bx",
    "*view_transform.frustum",
)
# Files may hold them in half precision: bfloat16 is off by 1/256 at most, and keeps such counts.
_RTOL, _ATOL = 4e-3, 1e-4


class CheckpointMismatchError(ValueError):
    """The weights do not fill the model.

    Attributes:
        missing: keys of the model that the file lacks.
        unexpected: keys of the file that the model lacks.
        mismatched: key -> shape in the file, shape in the model.
    """

    def __init__(
        self,
        message: str,
        missing: Sequence[str],
        unexpected: Sequence[str],
        mismatched: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]],
    ) -> None:
        super().__init__(message)
        self.missing = tuple(missing)
        self.unexpected = tuple(unexpected)
        self.mismatched = dict(mismatched)


@dataclass(frozen=True)
class LoadReport:
    """What a load did.

    Attributes:
        source: where the weights came from.
        loaded: tensors copied into the model.
        sparse_layout: of the file's sparse weights, see ``layouts``; None when the model has none.
        converted: sparse weights that were permuted.
        missing: keys left as they were, each allowed by the caller or a mere batch counter.
        unexpected: keys of the file that the caller allowed to be ignored.
    """

    source: str
    loaded: int
    sparse_layout: str | None
    converted: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]

    def __str__(self) -> str:
        text = f"{self.loaded} tensors"
        if self.sparse_layout:
            text += f", sparse weights in {self.sparse_layout.upper()}"
        if self.converted:
            text += f" ({self.converted} permuted)"
        if self.missing:
            parts = Counter(key.split(".")[0] for key in self.missing)
            names = ", ".join(f"{name} {count}" for name, count in parts.items())
            text += f", {len(self.missing)} left as they were ({names})"
        if self.unexpected:
            text += f", {len(self.unexpected)} ignored"
        return text


def strip_wrapper(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors without the prefix that distributed training puts before every key."""
    stripped = dict(state_dict)
    while stripped and all(key.startswith(_WRAPPER) for key in stripped):
        stripped = {key.removeprefix(_WRAPPER): value for key, value in stripped.items()}
    return stripped


def sparse_weight_keys(model: nn.Module) -> list[str]:
    """Keys of 5-D weights that belong to sparse convolutions, not to dense 3-D ones."""
    dense = {
        f"{name}.weight" if name else "weight"
        for name, module in model.named_modules()
        if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d))
    }
    return [
        key
        for key, value in model.named_parameters(remove_duplicate=False)
        if value.dim() == 5 and key not in dense
    ]


def _sparse_votes(
    state_dict: Mapping[str, Tensor], wanted: Mapping[str, Tensor], keys: Iterable[str]
) -> dict[str, frozenset[str]]:
    """Sparse weight -> layouts that its shape in the file fits."""
    votes = {}
    for key in keys:
        if key in state_dict:
            out, *kernel, channels = wanted[key].shape
            votes[key] = fitting_layouts(state_dict[key].shape, out, kernel, channels)
    return votes


def sparse_layout(
    state_dict: Mapping[str, Tensor], wanted: Mapping[str, Tensor], keys: Iterable[str]
) -> str | None:
    """Layout of a file's sparse weights, deduced from their shapes.

    The published files carry no tag that tells. A weight whose shape fits no layout says nothing
    here; it is reported with the other shapes that differ.

    Args:
        state_dict: the file's tensors.
        wanted: the model's tensors, KRSC.
        keys: the sparse weights.

    Returns:
        A name of ``layouts.LAYOUTS``, or None when no weight fits any.

    Raises:
        ValueError: the weights contradict each other, or fit several layouts.
    """
    votes = _sparse_votes(state_dict, wanted, keys)
    shapes = {key: tuple(state_dict[key].shape) for key in votes}
    return agreed_layout("load_into", votes, shapes, "sparse_layout='{}'")


def _permute(
    found: dict[str, Tensor], votes: Mapping[str, frozenset[str]], layout: str | None
) -> int:
    """Bring those weights that fit ``layout`` to KRSC, in place; how many were moved."""
    if layout is None or layout == "krsc":
        return 0
    keys = [key for key, layouts in votes.items() if layout in layouts]
    for key in keys:
        found[key] = to_krsc(found[key], layout)
    return len(keys)


def listed(keys: Sequence[str]) -> str:
    """The first keys and how many more there are."""
    more = len(keys) - _SHOWN
    return ", ".join(keys[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _matching(keys: Iterable[str], patterns: Sequence[str]) -> list[str]:
    return [key for key in keys if any(fnmatchcase(key, pattern) for pattern in patterns)]


def _mismatch(
    name: str,
    source: str,
    counts: tuple[int, int],
    missing: Sequence[str],
    unexpected: Sequence[str],
    mismatched: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]],
) -> CheckpointMismatchError:
    """The error that lists what does not fit."""
    fitting, wanted = counts
    lines = [f"load_into: {source} must fill {name}, got {fitting} of {wanted} tensors that fit"]
    if missing:
        lines.append(f"{len(missing)} missing in the file: {listed(missing)}")
    if unexpected:
        lines.append(f"{len(unexpected)} unexpected in the file: {listed(unexpected)}")
    for key, (found, expected) in list(mismatched.items())[:_SHOWN]:
        lines.append(f"{key} is {list(found)} in the file, {list(expected)} in the model")
    if len(mismatched) > _SHOWN:
        lines.append(f"and {len(mismatched) - _SHOWN} more of another shape")
    if any(key.startswith(_MIT_NAMES) for key in unexpected):
        hint = (
            "try tools/convert_checkpoint.py: the file has the names of mit-han-lab/bevfusion, and "
            "its boxes"
        )
    elif fitting < wanted / 2:
        hint = "try the config that belongs to this checkpoint: it looks like another model"
    elif mismatched and all(len(found) == len(e) == 5 for found, e in mismatched.values()):
        hint = (
            "try the original file: these fit none of KRSC, RSCK and RSKC, as when permuted twice"
        )
    elif mismatched:
        hint = "try the config it was trained with; a copy lies in the training's work directory"
    else:
        hint = (
            "try the config it was trained with; from Python, allow_missing and allow_unexpected "
            "leave parts out"
        )
    lines.append(hint)
    return CheckpointMismatchError("\n  ".join(lines), missing, unexpected, mismatched)


def _absent_parts(wanted: Iterable[str], found: Iterable[str], parts: Sequence[str]) -> list[str]:
    """Patterns of those parts of which the file has nothing at all."""
    for part in parts:
        if not any(key.startswith(f"{part}.") for key in wanted):
            raise ValueError(f"load_into: may_lack must name parts of the model, got {part!r}")
    keys = list(found)
    return [f"{p}.*" for p in parts if not any(key.startswith(f"{p}.") for key in keys)]


def _keep_constants(found: dict[str, Tensor], wanted: Mapping[str, Tensor], source: str) -> None:
    """Put the model's own constants in place of the file's, which must agree.

    Raises:
        ValueError: one does not.
    """
    for key in _matching(found, _CONSTANTS):
        if key in wanted:
            theirs, ours = (state[key].detach().cpu().double() for state in (found, wanted))
            exact = _matching([key], _COUNTS)
            rtol, atol = (0.0, 0.0) if exact else (_RTOL, _ATOL)
            if not torch.allclose(theirs, ours, rtol=rtol, atol=atol):
                raise ValueError(
                    f"load_into: {key} of {source} must be what the config says, "
                    f"{_brief(ours)}, got {_brief(theirs)}; try the config that the file was "
                    "trained with"
                )
            found[key] = wanted[key]


def _brief(values: Tensor) -> str:
    """The first numbers of a tensor."""
    shown = [round(value, 4) for value in values.flatten()[:3].tolist()]
    return f"{shown}" if values.numel() <= 3 else f"{shown[:-1]} ... {values.max().item():g}"


def fill(
    model: nn.Module,
    state_dict: Mapping[str, Tensor],
    source: Path | str,
    *,
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
    may_lack: Sequence[str] = (),
    layout: str | None = None,
) -> LoadReport:
    """Copy weights into a model, whole or not at all.

    Sparse weights in another layout are permuted to KRSC; the ``module.`` prefix is dropped.
    Counters (``num_batches_tracked``) may be missing: nothing is computed from them. Constants that
    follow from the config (the view transform's grid, the index of relative positions) are
    compared, not copied.

    Args:
        model: what to fill; unchanged when an error is raised.
        state_dict: key -> tensor.
        source: name for messages.
        allow_missing: patterns (``img_*``) of keys that may be absent.
        allow_unexpected: patterns of keys that may be left over.
        may_lack: parts of the model (``img_backbone``) that may be absent as a whole.
        layout: of the sparse weights, instead of deducing it; see ``layouts``.

    Raises:
        CheckpointMismatchError: keys or shapes differ; the message lists them.
        ValueError: the sparse layout is ambiguous, mixed or unknown; a constant differs; the model
            has no such part.
    """
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"load_into: sparse_layout must be krsc, rsck or rskc, got {layout!r}")
    wanted = {key: value for key, value in model.state_dict().items() if torch.is_tensor(value)}
    found = strip_wrapper(state_dict)
    sparse = sparse_weight_keys(model)
    layout = layout or sparse_layout(found, wanted, sparse)
    converted = _permute(found, _sparse_votes(found, wanted, sparse), layout)
    missing = [key for key in wanted if key not in found]
    unexpected = [key for key in found if key not in wanted]
    absent = _absent_parts(wanted, found, may_lack)
    left = _matching(missing, [*allow_missing, *absent, "*num_batches_tracked"])
    ignored = _matching(unexpected, allow_unexpected)
    mismatched = {
        key: (tuple(found[key].shape), tuple(value.shape))
        for key, value in wanted.items()
        if key in found and found[key].shape != value.shape
    }
    lost = [key for key in missing if key not in set(left)]
    strange = [key for key in unexpected if key not in set(ignored)]
    fitting = len(wanted) - len(missing) - len(mismatched)
    if lost or strange or mismatched:
        name = type(model).__name__
        raise _mismatch(name, str(source), (fitting, len(wanted)), lost, strange, mismatched)
    _keep_constants(found, wanted, str(source))
    model.load_state_dict({key: found[key] for key in wanted if key in found}, strict=False)
    return LoadReport(str(source), fitting, layout, converted, tuple(left), tuple(ignored))
