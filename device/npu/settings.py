"""What a training on Ascend NPUs sets, as data: variables and numerics, each with its why.

Learned from DrivingSDK's BEVFusion scripts. No Ascend device has confirmed any of it here.

Also a script that imports nothing but Python's own library, for the launchers:

    eval "$(python device/npu/settings.py --shell)"
"""

from __future__ import annotations  # the launchers' python3 may be older than AnyBEV's

import argparse
import os
import sys
from collections.abc import MutableMapping
from dataclasses import dataclass

_SCRIPT = "DrivingSDK model_examples/BEVFusion/test/env_npu.sh"
_FP16 = "DrivingSDK model_examples/BEVFusion/test/train_full_8p_base_fp16.sh"
_PATCH = "DrivingSDK model_examples/BEVFusion/bevfusion.patch, tools/train.py"


@dataclass(frozen=True)
class Setting:
    """One thing that is set.

    Attributes:
        name: environment variable, or name of a numerics setting.
        value: what it is set to, in the words of a shell.
        why: what it is good for, in one sentence.
        source: where it was learned.
    """

    name: str
    value: str
    why: str
    source: str


# HCCL_IF_IP is left out on purpose: HCCL finds the address, and a guess from `hostname -I` is wrong
# on hosts with several networks. TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD too: checkpoints load without
# running code.
VARIABLES = (
    Setting(
        "PYTORCH_NPU_ALLOC_CONF",
        "expandable_segments:True",
        "The allocator grows segments in place: less fragmentation from frames of different sizes.",
        _SCRIPT,
    ),
    Setting(
        "TASK_QUEUE_ENABLE",
        "2",
        "Operators are queued in two stages, so that the host runs ahead of the device.",
        _SCRIPT,
    ),
    Setting("COMBINED_ENABLE", "1", "Chains of views are made contiguous in one go.", _SCRIPT),
    Setting("CPU_AFFINITY_CONF", "2", "Each process keeps to the cores near its device.", _SCRIPT),
    Setting(
        "ACLNN_CACHE_LIMIT",
        "100000",
        "Compiled operators are kept: points and boxes come in many shapes.",
        _SCRIPT,
    ),
    Setting(
        "ACL_OP_INIT_MODE", "0", "Operators are not initialised before they are used.", _SCRIPT
    ),
    Setting(
        "HCCL_WHITELIST_DISABLE",
        "1",
        "Devices of different hosts connect without a list of allowed ones.",
        _SCRIPT,
    ),
    Setting(
        "HCCL_CONNECT_TIMEOUT",
        "1200",
        "Seconds to connect: ranks that read data or compile first arrive minutes apart.",
        _SCRIPT,
    ),
    Setting("ASCEND_GLOBAL_LOG_LEVEL", "3", "The device's log keeps errors alone.", _SCRIPT),
    Setting("ASCEND_GLOBAL_EVENT_ENABLE", "0", "The device's log leaves events out.", _SCRIPT),
    Setting(
        "ASCEND_SLOG_PRINT_TO_STDOUT",
        "0",
        "The device's log stays out of the training's output.",
        _SCRIPT,
    ),
)

JIT_COMPILE = Setting(
    "jit_compile",
    "False",
    "Compiled operators come from the library: shapes change with every frame.",
    _PATCH,
)
INTERNAL_FORMAT = Setting(
    "allow_internal_format",
    "True",
    "Convolutions keep their tensors in the device's own layout.",
    _PATCH,
)
NORM_ROWS = Setting(
    "norm_rows_in_float32",
    "True",
    "Batch norm over rows (cells, points) runs in float32 under autocast (BATCH_NORM_PATCH=1).",
    _FP16,
)
SPARSE_FLOAT16 = Setting(
    "sparse_features_in_float16",
    "True",
    "Sparse convolutions compute in autocast's float16, as the operator does on every device "
    "(SUBM_FP16_ENABLED=1).",
    _FP16,
)
NUMERICS = (JIT_COMPILE, INTERNAL_FORMAT, NORM_ROWS, SPARSE_FLOAT16)


def enabled(setting: Setting) -> bool:
    """The value of a numerics setting."""
    return setting.value == "True"


def apply(environment: MutableMapping[str, str] | None = None) -> None:
    """Set the variables, of this process unless another mapping is given; what is set stays.

    torch_npu reads them when it starts, so this comes before it is imported.
    """
    target = os.environ if environment is None else environment
    for setting in VARIABLES:
        target.setdefault(setting.name, setting.value)


def shell() -> str:
    """Lines that export the variables in a shell; what is set stays."""
    return "\n".join(f"# {s.why}\nexport {s.name}=${{{s.name}:-{s.value}}}" for s in VARIABLES)


def facts() -> list[dict[str, str]]:
    """Every setting, with the value that this process has for it."""
    rows = []
    for kind, settings in (("variable", VARIABLES), ("numerics", NUMERICS)):
        for s in settings:
            set_to = os.environ.get(s.name, "") if kind == "variable" else s.value
            row = {"name": s.name, "kind": kind, "default": s.value, "set": set_to}
            rows.append({**row, "why": s.why, "source": s.source})
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Print the variables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shell", action="store_true", help="as lines for eval in a shell")
    options = parser.parse_args(arguments)
    if options.shell:
        print(shell())
        return 0
    for s in (*VARIABLES, *NUMERICS):
        print(f"{s.name}={s.value}  {s.why} ({s.source})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
