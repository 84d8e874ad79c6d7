"""Parts that start from pretrained weights, as their ``init_cfg`` says."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from anybev import envs
from anybev.engine.checkpoint import read
from anybev.engine.convert_swin import load_swin
from anybev.engine.weights import fill
from anybev.models.common.arguments import refuse_unknown
from anybev.models.common.swin import SwinTransformer

_URL = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def local_file(place: str, checkpoint: str) -> Path:
    """The file that a config's ``checkpoint`` stands for; nothing is downloaded.

    A URL stands for the file of its name in the folder ``ANYBEV_WEIGHTS``.

    Args:
        place: part of the model, for messages.
        checkpoint: path or URL.

    Raises:
        FileNotFoundError: no such file.
    """
    if not _URL.match(checkpoint):
        path = Path(checkpoint).expanduser()
        if path.is_file():
            return path
        reason = "an existing file, got none"
        advice = f"model.{place}.init_cfg.checkpoint=FILE"
    else:
        path = envs.weights_dir() / re.sub(r"[?#].*", "", checkpoint).rsplit("/", 1)[-1]
        if path.is_file():
            return path
        reason = f"there for {checkpoint}, which is not downloaded, got no file"
        advice = (
            f"fetching it and putting it at {path} (ANYBEV_WEIGHTS names the folder), "
            f"model.{place}.init_cfg.checkpoint=FILE"
        )
    raise FileNotFoundError(
        f"{place}: init_cfg.checkpoint {path} must be {reason}; try {advice}, or "
        f"model.{place}.init_cfg=None for random weights"
    )


def load_pretrained(model: nn.Module) -> dict[str, str]:
    """Fill every part whose ``init_cfg`` names pretrained weights.

    Args:
        model: detector, already built.

    Returns:
        Part -> what was loaded into it.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: an ``init_cfg`` is of another kind; a file does not fill its part.
    """
    done = {}
    for place, part in model.named_modules():
        init_cfg: Any = getattr(part, "init_cfg", None)
        if init_cfg:
            done[place] = _load_part(place, part, init_cfg)
    return done


def _load_part(place: str, part: nn.Module, init_cfg: Mapping[str, Any]) -> str:
    refuse_unknown(f"{place}: init_cfg", init_cfg, ("type", "checkpoint"))
    if init_cfg.get("type") != "Pretrained" or "checkpoint" not in init_cfg:
        raise ValueError(
            f"{place}: init_cfg must be dict(type='Pretrained', checkpoint=FILE), got "
            f"{dict(init_cfg)}"
        )
    path = local_file(place, str(init_cfg["checkpoint"]))
    weights = read(path)["state_dict"]
    if isinstance(part, SwinTransformer):
        return f"{load_swin(part, weights, path)} ({path})"
    return f"{fill(part, weights, path)} ({path})"
