"""Every environment variable AnyBEV reads, parsed strictly and documented in one place.

| variable | meaning | default |
|---|---|---|
| ``ANYBEV_BACKEND`` | ``cpu``, ``cuda`` or ``npu`` instead of probing | probe |
| ``ANYBEV_OPS`` | list of ``<operator>=reference`` or ``=triton``: force implementations | none |
| ``ANYBEV_SPARSE_CONV`` | ``spconv``: convolve on CUDA by an installed spconv | AnyBEV's kernel |
| ``ANYBEV_PATCHES_OFF`` | patches of mmdetection3d that are left out: ids, by commas | none |
| ``ANYBEV_MMDET3D_SRC`` | a checkout of mmdetection3d, for tests of its projects | none |
| ``ANYBEV_REQUIRE_NATIVE`` | ``1``: an operator slower than declared is an error | ``0`` |
| ``ANYBEV_TRACEBACK`` | ``1``: bad input shows its traceback, not one line | ``0`` |
| ``ANYBEV_WEIGHTS`` | folder of pretrained weights that configs name by URL | ``weights`` |
| ``ANYBEV_TEST_DATA`` | real sample data and golden packs that tests use | ``../shared`` |
| ``ANYBEV_SIMULATE`` | ``npu``: tests run in a process with simulated npu devices | none |
| ``ANYBEV_MX_DRIVING_WHEEL`` | a wheel of mx_driving, or its unpacked folder, whose Python layer
  tests run | none |
| ``ANYBEV_BUILD`` | ``0``: install without compiled kernels (read by setup.py) | ``1`` |
| ``ANYBEV_BUILD_CUDA`` | ``1``: CUDA kernels also without a CUDA torch, ``only``: nothing else,
  ``0``: never (read by setup.py) | with a CUDA torch and nvcc |
| ``ANYBEV_CUDA_ARCHS`` | architectures of the CUDA kernels (read by setup.py) | ``80;90;100`` |
| ``ANYBEV_NATIVE_LIBRARY`` | compiled operators to load in place of the package's | none |
| ``ANYBEV_EMULATION_SEED`` | order of threads in emulated CUDA kernels (read by csrc/emulation)
  | ascending |
| ``ANYBEV_TORCH_INDEX`` | package index of torch (read by install.sh) | pip's default |
| ``WORLD_SIZE``, ``NODE_RANK``, ``MASTER_ADDR``, ``MASTER_PORT``, ``NUM_GPU_PER_NODE`` | a
  cluster's job, ``WORLD_SIZE`` being its number of nodes: read by launchers | flags |
| ``HCCL_IF_IP`` | HCCL's address of this host: checked by launchers | HCCL's choice |
| ``ANYBEV_JOB_STARTED``, ``ANYBEV_JOB_ROUND`` | when the job began (seconds since 1970) and how
  often, set by its launcher: a restart takes up this job's checkpoints | none, ``1`` |
| ``ANYBEV_JOB_LAUNCHER`` | process id of the job's launcher, set by it | none |

Values are read when they are asked for, so a change takes effect in the running process.
"""

import os
from pathlib import Path

BACKENDS = ("cpu", "cuda", "npu")
OPS = "ANYBEV_OPS"
REQUIRE_NATIVE = "ANYBEV_REQUIRE_NATIVE"
IMPLEMENTATIONS = ("reference", "triton")  # what a user may force an operator to
JOB_STARTED = "ANYBEV_JOB_STARTED"
JOB_ROUND = "ANYBEV_JOB_ROUND"
JOB_LAUNCHER = "ANYBEV_JOB_LAUNCHER"
# What a job calls the variables that clusters set on each node.
_CLUSTER = {
    "nnodes": "WORLD_SIZE",
    "node_rank": "NODE_RANK",
    "master_addr": "MASTER_ADDR",
    "port": "MASTER_PORT",
    "nproc": "NUM_GPU_PER_NODE",
}


class MachineError(RuntimeError):
    """This machine lacks what was asked for; the message says what, and what to do."""


def _flag(name: str) -> bool:
    value = os.environ.get(name, "0").strip()
    if value in ("", "0"):
        return False
    if value == "1":
        return True
    raise ValueError(f"{name} must be 0 or 1, got {value!r}")


def backend() -> str | None:
    """Name of the backend the user forces, or None to probe.

    Raises:
        ValueError: the variable holds another word.
    """
    value = os.environ.get("ANYBEV_BACKEND", "").strip().lower()
    if not value or value == "auto":
        return None
    if value not in BACKENDS:
        raise ValueError(f"ANYBEV_BACKEND must be one of {', '.join(BACKENDS)}, got {value!r}")
    return value


def forced_implementations() -> dict[str, str]:
    """Operator -> ``reference`` or ``triton``, of those that ``ANYBEV_OPS`` names.

    Raises:
        ValueError: an entry is not ``<operator>=reference`` or ``<operator>=triton``.
    """
    forced = {}
    for entry in filter(None, os.environ.get("ANYBEV_OPS", "").replace(" ", "").split(",")):
        name, _, choice = entry.partition("=")
        if not name or choice not in IMPLEMENTATIONS:
            raise ValueError(
                "ANYBEV_OPS must be a list of <operator>=reference or <operator>=triton, got "
                f"{entry!r}"
            )
        forced[name] = choice
    return forced


def forced_references() -> frozenset[str]:
    """Operators that ``ANYBEV_OPS`` forces to their plain-PyTorch reference."""
    forced = forced_implementations()
    return frozenset(name for name, choice in forced.items() if choice == "reference")


def sparse_conv_vendor() -> str | None:
    """``spconv`` where the user wants its sparse convolutions on CUDA, else None.

    Raises:
        ValueError: the variable holds another word.
    """
    value = os.environ.get("ANYBEV_SPARSE_CONV", "").strip()
    if value not in ("", "spconv"):
        raise ValueError(f"ANYBEV_SPARSE_CONV must be spconv or empty, got {value!r}")
    return value or None


def patches_off() -> frozenset[str]:
    """Patches that the user has switched off, by id."""
    return frozenset(
        filter(None, os.environ.get("ANYBEV_PATCHES_OFF", "").replace(" ", "").split(","))
    )


def mmdet3d_source() -> Path | None:
    """The user's checkout of mmdetection3d, or None."""
    value = os.environ.get("ANYBEV_MMDET3D_SRC", "").strip()
    return Path(value) if value else None


def native_library() -> Path | None:
    """Compiled operators to load in place of the package's own, or None."""
    value = os.environ.get("ANYBEV_NATIVE_LIBRARY", "").strip()
    return Path(value) if value else None


def require_native() -> bool:
    """Whether an operator that falls back to its reference is an error."""
    return _flag(REQUIRE_NATIVE)


def traceback() -> bool:
    """Whether errors about bad input keep their traceback."""
    return _flag("ANYBEV_TRACEBACK")


def weights_dir() -> Path:
    """Folder where the files of URLs in configs are looked for; nothing is downloaded."""
    return Path(os.environ.get("ANYBEV_WEIGHTS", "weights")).expanduser()


def test_data() -> Path:
    """Folder of the real sample data and golden packs (it may be missing: tests then skip)."""
    return Path(os.environ.get("ANYBEV_TEST_DATA", "../shared")).resolve()


def simulate() -> str:
    """Kind of device that tests simulate: ``npu``, or "" for none.

    Raises:
        ValueError: the variable holds another word.
    """
    value = os.environ.get("ANYBEV_SIMULATE", "").strip().lower()
    if value not in ("", "npu"):
        raise ValueError(f"ANYBEV_SIMULATE must be npu or empty, got {value!r}")
    return value


def mx_driving_wheel() -> Path | None:
    """A wheel of mx_driving, or the folder it was unpacked into, for tests of the adapters."""
    value = os.environ.get("ANYBEV_MX_DRIVING_WHEEL", "").strip()
    return Path(value).expanduser() if value else None


def cluster() -> dict[str, tuple[str, str]]:
    """Name in a job -> (variable, value), of those that the cluster has set on this node."""
    values = {name: (key, os.environ.get(key, "").strip()) for name, key in _CLUSTER.items()}
    return {name: (key, value) for name, (key, value) in values.items() if value}


def hccl_if_ip() -> str:
    """Address of this host that HCCL is told to use, or ""."""
    return os.environ.get("HCCL_IF_IP", "").strip()


def job_started_s() -> float | None:
    """When the job that this process belongs to began, in seconds since 1970; None outside of one.

    Raises:
        ValueError: the variable holds no number.
    """
    value = os.environ.get(JOB_STARTED, "").strip()
    if not value:
        return None
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"{JOB_STARTED} must be seconds since 1970, got {value!r}") from None


def job_round() -> int:
    """1 in a job's first attempt and outside of one, one more after each restart."""
    return int(os.environ.get(JOB_ROUND, "1"))


def job_launcher() -> int | None:
    """Process id of the launcher that started this process; None outside of a job."""
    value = os.environ.get(JOB_LAUNCHER, "").strip()
    return int(value) if value.isdigit() else None
