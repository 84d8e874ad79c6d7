"""Reads checkpoint files without running code that they carry.

torch's own weights-only loader does the reading. What it refuses in honest files is answered here:
numpy values are built by ``anybev.datasets.safe_pickle``, and names of the OpenMMLab packages
(log histories, configs) become inert placeholders. Every other name stops the load.
"""

import pickle
import pickletools
import re
import struct
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from anybev.datasets.safe_pickle import ALLOWED

# Packages whose objects turn up in checkpoints beside the weights; nothing of them is imported.
INERT_PACKAGES = ("mmengine", "mmcv", "mmdet", "mmdet3d", "pathlib", "datetime")

# mmengine's log histories look their methods up on loading; the placeholder looks nothing up.
_INERT_NAMES = ("builtins.getattr",)

# Modules as pickles of old protocols call them.
_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}

# A file of torch's format before 1.6 holds this many pickles in a row, then the raw storages.
_LEGACY_PICKLES = 5

_REFUSAL = (
    "checkpoint: {} must name nothing but tensors and plain values, got {}; it was not loaded: "
    "save the weights alone as {{'state_dict': ...}} on a machine that trusts the file"
)

# What a damaged file can raise inside zipfile, pickletools and torch's loader.
_DAMAGE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    RuntimeError,
    EOFError,
    OSError,
    MemoryError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    OverflowError,
    AssertionError,
)


class UnsafeCheckpointError(ValueError):
    """The checkpoint names code that is neither torch's nor a known, inert name."""


class Placeholder:
    """What is left of an object whose class is not loaded.

    Attributes:
        origin: dotted name that the file gave.
        args: what its constructor was to be called with.
        state: what its attributes were to be set to.
    """

    origin = ""

    def __new__(cls, *args: Any) -> "Placeholder":
        """Keep the arguments, whatever their number."""
        made = super().__new__(cls)
        made.args, made.state = args, None
        return made

    def __init__(self, *args: Any) -> None:
        self.args: tuple[Any, ...] = args

    def __setstate__(self, state: Any) -> None:
        self.state: Any = state

    def __repr__(self) -> str:
        return f"<placeholder of {self.origin}>"


def _names_in_pickle(stream: IO[bytes]) -> tuple[set[str], bool]:
    """Dotted names that one pickle resolves, found without running it; whether it is whole."""
    names: set[str] = set()
    texts: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "GLOBAL":
                module, name = str(argument).split(" ", 1)
                names.add(f"{_RENAMED.get(module, module)}.{name}")
            elif opcode.name == "STACK_GLOBAL":
                names.add(".".join(texts))
            elif isinstance(argument, str):
                texts = [*texts[-1:], argument]
    except ValueError:
        return names, False
    return names, True


def names_in_checkpoint(path: Path) -> set[str]:
    """Dotted names that a checkpoint asks its reader to resolve; nothing of it is run.

    Raises:
        ValueError: the file is cut short, a TorchScript archive or another zip file.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            records = {name.split("/")[-1]: name for name in archive.namelist()}
            if "constants.pkl" in records:
                raise ValueError("a TorchScript archive, which is a program")
            if "data.pkl" not in records:
                raise ValueError("a zip file without data.pkl")
            with archive.open(records["data.pkl"]) as stream:
                return _names_in_pickle(stream)[0]
    with path.open("rb") as stream:
        if stream.read(4) == b"PK\x03\x04":
            raise ValueError("a zip file that is cut short")
        stream.seek(0)
        names: set[str] = set()
        for _ in range(_LEGACY_PICKLES):
            found, whole = _names_in_pickle(stream)
            names |= found
            if not whole:
                break  # torch's loader tells what is wrong
        return names


def _refuse_flipped_bits(path: Path) -> None:
    """Compare the checksum of every record: torch's reader does not, and loads wrong numbers.

    Raises:
        ValueError: a record does not match.
    """
    if not zipfile.is_zipfile(path):
        return  # the old format has none
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"bits of {damaged} that changed after it was written")


def _stand_ins(names: set[str]) -> list[Any]:
    """Pairs (harmless answer, name) for those of the names that are known but not torch's."""
    plain: list[Any] = [(answer, f"{module}.{name}") for (module, name), answer in ALLOWED.items()]
    inert = [
        (type("Placeholder", (Placeholder,), {"origin": name}), name)
        for name in sorted(names)
        if name in _INERT_NAMES or name.split(".")[0] in INERT_PACKAGES
    ]
    return plain + inert


def _refused(names: set[str], path: Path) -> list[str]:
    """Which of the names neither torch nor the stand-ins answer."""
    answered = {name for _, name in _stand_ins(names)}
    if zipfile.is_zipfile(path):
        unsafe = set(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    else:
        unsafe = {n for n in names if n.split(".")[0] not in ("torch", "collections", "_codecs")}
    return sorted(unsafe - answered)


def _plain_arrays(value: Any, seen: set[int]) -> Any:
    """The same containers with the arrays' checked stand-ins turned into plain arrays."""
    if isinstance(value, np.ndarray):
        return value.view(np.ndarray)
    if type(value) is tuple:
        return tuple([_plain_arrays(item, seen) for item in value])
    if isinstance(value, Placeholder):
        value.args, value.state = (_plain_arrays(v, seen) for v in (value.args, value.state))
    elif isinstance(value, (dict, list)) and id(value) not in seen:
        seen.add(id(value))
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in list(entries):
            value[key] = _plain_arrays(item, seen)
    return value


def load_untrusted(path: Path, map_location: str | torch.device = "cpu") -> Any:
    """What a checkpoint file holds: containers, numbers, text, tensors, arrays, placeholders.

    Args:
        path: file that ``torch.save`` wrote, in today's or the old format.
        map_location: device of the tensors.

    Raises:
        FileNotFoundError: no such file.
        UnsafeCheckpointError: the file names code that would have to run; the message has it.
        ValueError: the file is damaged, or no checkpoint.
    """
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint: {path} must be an existing file, got none")
    names: set[str] = set()
    try:
        _refuse_flipped_bits(path)
        names = names_in_checkpoint(path)
        refused = _refused(names, path)
        if refused:
            raise UnsafeCheckpointError(_REFUSAL.format(path, ", ".join(refused)))
        with torch.serialization.safe_globals(_stand_ins(names)), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols and deprecated storages
            content = torch.load(path, map_location=map_location, weights_only=True)
    except UnsafeCheckpointError:
        raise
    except _DAMAGE as error:
        text = str(error).split("WeightsUnpickler error:")[-1].strip()
        unknown = re.search(r"GLOBAL (\S+)", text)
        # A name that the scan did not see whole was cut off by damage.
        if unknown and unknown[1] in names:
            raise UnsafeCheckpointError(_REFUSAL.format(path, unknown[1])) from None
        reason = re.split(r"\n|\. ", text, maxsplit=1)[0][:200]
        raise ValueError(
            f"checkpoint: {path} must be a whole file written by torch.save, got "
            f"{type(error).__name__}: {reason}; try copying it again"
        ) from error
    return _plain_arrays(content, set())
