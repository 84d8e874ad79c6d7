"""Everything that would stop a job, found before any process starts."""

import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmengine.config import Config

from anybev import envs
from anybev.device import Capability
from anybev.device.backend import Backend
from anybev.device.ops import _native
from anybev.engine.job import demo, leftovers
from anybev.engine.job.command import config_options, innermost, trains_in, variables
from anybev.engine.job.interfaces import interfaces, resolve
from anybev.engine.job.meeting import listening_socket
from anybev.engine.job.nodes import LOOPBACK
from anybev.engine.job.options import JobOptions
from anybev.engine.pretrained import local_file
from anybev.engine.train import parser as train_parser

_PORTS_TRIED = 100
_CREATE = "python tools/create_data.py nuscenes --root-path {root} --out-dir {root}"
# The training's command line cuts such values into pieces; blanks inside stay.
_UNSAFE = re.compile(r"^\s|\s$|[\t\r\n,\[\](){}'\"]")


@dataclass(frozen=True)
class Preflight:
    """What was found.

    Attributes:
        options: as the job can have them: another port where the wanted one is in use.
        problems: what stops the job, one line each; empty when it may start.
        notes: what the user has to know.
    """

    options: JobOptions
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def check(options: JobOptions, config: Config, backend: Backend) -> Preflight:
    """Look at everything a job needs; nothing is changed, no process is touched.

    Args:
        options: of the job.
        config: as its file says.
        backend: that it trains on.
    """
    notes: list[str] = []
    if options.demo and options.dry_run:
        notes.append(f"the start writes synthetic scenes to {options.data_root or demo.ROOT}")
    problems = [*_devices(options, backend, notes), *_kernels(options, backend)]
    problems += _names(options)
    if not problems:  # else the config cannot be merged
        problems += _files(options, config)
    problems += _network()
    options = _port(options, problems, notes)
    found = leftovers.find(options.work_dir, options.node_rank)
    for process in found:
        # On the CPU an orphan only takes time; a device it holds on to is not free.
        stops = process.same_work_dir or Capability.INDEXED in backend.capabilities
        (problems if stops else notes).append(str(process))
    return Preflight(options, tuple(problems), tuple(notes))


def _devices(options: JobOptions, backend: Backend, notes: list[str]) -> Iterator[str]:
    probe = backend.probe()
    if Capability.INDEXED in backend.capabilities:
        if probe.devices < options.nproc:
            cpu = " or ANYBEV_BACKEND=cpu" if options.demo else ""
            yield (
                f"--num-npu must be at most {probe.devices}, the number of {backend.name} devices "
                f"of this node ({probe.detail}), got {options.nproc}; try "
                f"--num-npu={max(1, probe.devices)}{cpu}"
            )
        return
    notes.append(
        f"no accelerator in use: {options.nproc} process(es) on the {backend.name} over "
        f"{backend.collective}"
    )
    if trains_in(options, backend) != options.precision:
        notes.append(
            f"{options.precision} becomes {trains_in(options, backend)}: the {backend.name} does "
            "not scale losses"
        )


def _kernels(options: JobOptions, backend: Backend) -> Iterator[str]:
    declared = _native.DECLARED.get(backend.device_type, ())
    wanted = variables(options, backend)["ANYBEV_REQUIRE_NATIVE"] == "1"
    reason = _native.unavailable(backend.device_type) if declared and wanted else None
    if reason:
        yield f"{reason}; ANYBEV_REQUIRE_NATIVE=0 trains on the references, slower"


def _names(options: JobOptions) -> Iterator[str]:
    named = {"--data-root": options.data_root, "--load-from": options.load_from}
    named |= {"--swin": options.swin, "ANYBEV_WEIGHTS": envs.weights_dir()}
    for flag, value in named.items():
        if value is not None and _UNSAFE.search(str(value)):
            yield f"{flag} must be a path without commas, brackets and quotes, got {str(value)!r}"


def _files(options: JobOptions, config: Config) -> Iterator[str]:
    merged = effective(options, config)
    if not (options.demo and options.dry_run):  # the start writes them
        yield from _data(merged)
    yield from _weights(merged, options)


def effective(options: JobOptions, config: Config) -> Config:
    """The config as the job's processes will have it: read by the parser that they use."""
    merged = Config(config.to_dict())
    pairs = config_options(options, config)
    if pairs:
        words = [str(options.config), "--cfg-options", *pairs]
        merged.merge_from_dict(train_parser().parse_args(words).cfg_options)
    return merged


def _data(config: Config) -> Iterator[str]:
    said: set[str] = set()
    for loader in ("train_dataloader", "val_dataloader"):
        if not config.get(loader):  # a training without evaluation
            continue
        dataset = innermost(config[loader])
        root = Path(dataset["data_root"])
        if not root.is_dir() and str(root) not in said:
            said.add(str(root))
            yield f"data: the folder {root} is missing; put nuScenes there, or name it: --data-root"
        yield from _missing(root / dataset["ann_file"], root, said)
        for step in dataset["pipeline"]:
            sampler = step.get("db_sampler") or {}
            if "info_path" in sampler:
                yield from _missing(Path(sampler["info_path"]), root, said)
    evaluators = config.get("val_evaluator") or ()
    for evaluator in [evaluators] if isinstance(evaluators, Mapping) else evaluators:
        root = Path(evaluator.get("data_root", "."))
        if "ann_file" in evaluator:
            yield from _missing(Path(evaluator["ann_file"]), root, said)
        tables = root / evaluator.get("version", "v1.0-trainval")
        if not tables.is_dir():
            yield f"data: the tables {tables} are missing: the score needs them"


def _missing(path: Path, root: Path, said: set[str]) -> Iterator[str]:
    if not path.is_file() and str(path) not in said:
        said.add(str(path))
        yield f"data: {path} is missing; make it: {_CREATE.format(root=root)}"


def _weights(config: Config, options: JobOptions) -> Iterator[str]:
    if options.resume:  # what it starts from is in the checkpoint
        read_here = options.resume != "auto" and options.node_rank == 0  # rank 0 hands it out
        if read_here and not Path(str(options.resume)).is_file():
            yield f"weights: the checkpoint {options.resume} of --resume is missing"
        return
    if config.get("load_from") and not Path(config.load_from).is_file():
        yield (
            f"weights: the checkpoint {config.load_from} is missing; put it there, or name another "
            "(lidar or lidar-camera): --load-from=FILE; --load-from=none starts from random weights"
        )
    for place, init_cfg in _pretrained(config.model, ""):
        try:
            local_file(place, str(init_cfg["checkpoint"]))
        except FileNotFoundError as error:
            yield f"weights: {error}; launchers: --swin=FILE or --swin=none"


def _pretrained(node: Any, place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not isinstance(node, Mapping):
        return
    init_cfg = node.get("init_cfg")
    if isinstance(init_cfg, Mapping) and init_cfg.get("checkpoint"):
        yield place, init_cfg
    for key, value in node.items():
        yield from _pretrained(value, f"{place}.{key}" if place else str(key))


def _network() -> Iterator[str]:
    value = envs.hccl_if_ip()
    if not value:
        return
    address, _, name = value.partition("%")
    own = [f"{found.address} ({found.name})" for found in interfaces()]
    try:
        wanted = str(ipaddress.ip_address(address))
    except ValueError:
        wanted = ""
    fits = (f.address == wanted and name in ("", f.name) for f in interfaces())
    if not any(fits):
        yield (
            f"HCCL_IF_IP must be an IP address of this host as ip[%interface], got {value!r}; it "
            f"has {', '.join(own)}; try `unset HCCL_IF_IP`: nothing here needs it"
        )


def _port(options: JobOptions, problems: list[str], notes: list[str]) -> JobOptions:
    """The options with a port that is free; on several nodes all must use the one named."""
    try:
        address = resolve(options.master_addr or LOOPBACK)
        if options.nnodes > 1:
            if options.node_rank == 0:
                listening_socket(address, options.port).close()
            return options
        for port in range(options.port, min(options.port + _PORTS_TRIED, 65536)):
            if _is_free(address, port):
                if port != options.port:
                    notes.append(f"port {options.port} is in use; {port} is taken instead")
                return replace(options, port=port)
    except envs.MachineError as error:
        problems.append(str(error))
        return options
    problems.append(f"--port must be free, got {options.port}, in use with the {_PORTS_TRIED} next")
    return options


def _is_free(address: str, port: int) -> bool:
    """Whether a port can be listened on.

    Raises:
        MachineError: the address is not this host's.
    """
    try:
        listening_socket(address, port).close()
    except envs.MachineError:
        listening_socket(address, 0).close()  # the address itself is no good: raises
        return False
    return True
