"""Fills a model with a checkpoint's weights, whole or not at all."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor, nn

_SHOWN = 10
_WRAPPER = "module."  # what distributed data parallel puts before every key

LAYOUTS = ("krsc", "rsck")


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
        sparse_layout: ``krsc`` ([out, kx, ky, kz, in], as ours) or ``rsck`` ([kx, ky, kz, in, out])
            of the file's sparse weights; None when the model has none.
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
            text += f", {len(self.missing)} left as they were"
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


def _fitting_layouts(found: Sequence[int], wanted: Sequence[int]) -> frozenset[str]:
    """Layouts in which a weight of shape ``found`` is one of shape ``wanted`` in KRSC."""
    out, *kernel, channels = wanted
    shapes = {"krsc": (out, *kernel, channels), "rsck": (*kernel, channels, out)}
    return frozenset(name for name, shape in shapes.items() if shape == tuple(found))


def sparse_layout(
    state_dict: Mapping[str, Tensor], wanted: Mapping[str, Tensor], keys: Iterable[str]
) -> str | None:
    """Layout of a file's sparse weights, deduced from their shapes.

    The published files carry no tag that tells. A weight whose shape fits neither layout says
    nothing here; it is reported with the other shapes that differ.

    Args:
        state_dict: the file's tensors.
        wanted: the model's tensors, KRSC.
        keys: the sparse weights.

    Returns:
        ``krsc``, ``rsck``, or None when no weight fits either.

    Raises:
        ValueError: the weights contradict each other, or fit both layouts.
    """
    votes = {
        key: _fitting_layouts(state_dict[key].shape, wanted[key].shape)
        for key in keys
        if key in state_dict
    }
    votes = {key: layouts for key, layouts in votes.items() if layouts}
    if not votes:
        return None
    agreed = frozenset(LAYOUTS).intersection(*votes.values())
    if len(agreed) == 1:
        return next(iter(agreed))
    if agreed:
        key = next(iter(votes))
        raise ValueError(
            "load_into: sparse weights must show their layout by their shape, got "
            f"{key} {list(state_dict[key].shape)} that fits KRSC and RSCK alike; "
            "try sparse_layout='krsc' or 'rsck'"
        )
    examples: dict[str, str] = {}
    for key, layouts in votes.items():
        if len(layouts) == 1:
            examples.setdefault(next(iter(layouts)), key)
    raise ValueError(
        "load_into: sparse weights must be of one layout, got "
        + " and ".join(f"{key} in {layout.upper()}" for layout, key in sorted(examples.items()))
    )


def _listed(keys: Sequence[str]) -> str:
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
        lines.append(f"{len(missing)} missing in the file: {_listed(missing)}")
    if unexpected:
        lines.append(f"{len(unexpected)} unexpected in the file: {_listed(unexpected)}")
    for key, (found, expected) in list(mismatched.items())[:_SHOWN]:
        lines.append(f"{key} is {list(found)} in the file, {list(expected)} in the model")
    if len(mismatched) > _SHOWN:
        lines.append(f"and {len(mismatched) - _SHOWN} more of another shape")
    if fitting < wanted / 2:
        hint = "try the config that belongs to this checkpoint: it looks like another model"
    elif mismatched and all(len(found) == len(e) == 5 for found, e in mismatched.values()):
        hint = "try the original file: these fit neither KRSC nor RSCK, as after two permutations"
    else:
        hint = "try allow_missing or allow_unexpected where a part is meant to be left out"
    lines.append(hint)
    return CheckpointMismatchError("\n  ".join(lines), missing, unexpected, mismatched)


def fill(
    model: nn.Module,
    state_dict: Mapping[str, Tensor],
    source: Path | str,
    *,
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
    layout: str | None = None,
) -> LoadReport:
    """Copy weights into a model, whole or not at all.

    Sparse weights in RSCK are permuted to KRSC; the ``module.`` prefix is dropped. Counters
    (``num_batches_tracked``) may be missing: nothing is computed from them.

    Args:
        model: what to fill; unchanged when an error is raised.
        state_dict: key -> tensor.
        source: name for messages.
        allow_missing: patterns (``img_*``) of keys that may be absent.
        allow_unexpected: patterns of keys that may be left over.
        layout: ``krsc`` or ``rsck`` instead of deducing it.

    Raises:
        CheckpointMismatchError: keys or shapes differ; the message lists them.
        ValueError: the sparse layout is ambiguous, mixed or unknown.
    """
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"load_into: sparse_layout must be krsc or rsck, got {layout!r}")
    wanted = {key: value for key, value in model.state_dict().items() if torch.is_tensor(value)}
    found = strip_wrapper(state_dict)
    sparse = sparse_weight_keys(model)
    layout = layout or sparse_layout(found, wanted, sparse)
    converted = 0
    for key in sparse if layout == "rsck" else ():
        if key in found and "rsck" in _fitting_layouts(found[key].shape, wanted[key].shape):
            found[key] = found[key].permute(4, 0, 1, 2, 3)
            converted += 1

    missing = [key for key in wanted if key not in found]
    unexpected = [key for key in found if key not in wanted]
    left = _matching(missing, [*allow_missing, "*num_batches_tracked"])
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
    model.load_state_dict({key: found[key] for key in wanted if key in found}, strict=False)
    return LoadReport(str(source), fitting, layout, converted, tuple(left), tuple(ignored))
