"""What a job is: flags, positions and cluster variables, checked once."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from anybev import envs
from anybev.engine import train
from anybev.engine.job.demo import CONFIG
from anybev.engine.job.rendezvous import DEFAULT_JOIN_TIMEOUT_S

KINDS = ("full", "performance")
PRECISIONS = ("fp32", "fp16")
#: DrivingSDK's positions, and the order in which values without a name are read.
POSITIONS = ("batch_size", "nproc", "epochs", "nnodes", "node_rank", "master_addr", "port")
PORT = 29500
_FLAGS = {"batch_size": "--batch-size", "nproc": "--num-npu", "epochs": "--epochs"}
_FLAGS |= {"nnodes": "--nnodes", "node_rank": "--node-rank", "port": "--port"}
_FLAGS |= {"master_addr": "--master-addr"}
_LEAST = {"batch_size": 1, "nproc": 1, "epochs": 1, "nnodes": 1, "node_rank": 0}
_LEAST |= {"port": 1, "max_restarts": 0, "join_timeout_s": 1}
_CASE_SIZE = re.compile(r"_\d+p(?=_|$)")


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """One node's share of a job.

    Attributes:
        config: config file.
        work_dir: folder of logs and checkpoints; None leaves the choice to the training.
        case: name of the log in ``output_dir``; None for a job without log and result file.
        kind: ``full`` (accuracy) or ``performance``.
        precision: ``fp32`` or ``fp16`` (bfloat16 where the device has no float16 training).
        network: name in the result file.
        nproc: processes on this node.
        nnodes: nodes.
        node_rank: this node's number, 0 for the one that leads.
        master_addr: address of node 0; None on a single node.
        port: of the rendezvous.
        max_restarts: times that a failed job is started again.
        join_timeout_s: seconds to wait for the other nodes.
        batch_size: samples a process; None leaves the config's.
        epochs: None leaves the config's.
        data_root: folder of the data set; None leaves the config's.
        load_from: checkpoint to start from, ``none`` for none; None leaves the config's.
        swin: weights of the image backbone, ``none`` for random ones; None leaves the config's.
        resume: ``auto``, a checkpoint, or None to start anew.
        auto_scale_lr: scale the learning rate to the global batch.
        demo: synthetic scenes and a small config.
        dry_run: print the command, start nothing.
        output_dir: folder of the log and the result file.
        cfg_options: further ``KEY=VALUE`` for the config.
        train_flags: further flags of ``tools/train.py``, without those that the launcher has too.
        notes: what has to be said about how these values came about.
    """

    config: Path
    work_dir: Path | None = None
    case: str | None = None
    kind: str = "full"
    precision: str = "fp32"
    network: str = "BEVFusion"
    nproc: int = 8
    nnodes: int = 1
    node_rank: int = 0
    master_addr: str | None = None
    port: int = PORT
    max_restarts: int = 0
    join_timeout_s: int = DEFAULT_JOIN_TIMEOUT_S
    batch_size: int | None = None
    epochs: int | None = None
    data_root: Path | None = None
    load_from: str | None = None
    swin: str | None = None
    resume: str | None = None
    auto_scale_lr: bool = False
    demo: bool = False
    dry_run: bool = False
    output_dir: Path = Path("test/output")
    cfg_options: tuple[str, ...] = ()
    train_flags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def world_size(self) -> int:
        """Processes of all nodes."""
        return self.nnodes * self.nproc

    @property
    def log_file(self) -> Path | None:
        """Where the output goes: under the case's name, with the real number of processes.

        Nodes that do not lead add their number. None without a case.
        """
        if self.case is None:
            return None
        name = _sized(self.case, self.world_size)
        node = f"_node{self.node_rank}" if self.node_rank else ""
        return self.output_dir / f"{name}{node}.log"


class _Parser(argparse.ArgumentParser):
    """Bad flags are a ``ValueError`` in one line."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"job: {message}; --help lists the flags")


def parser() -> argparse.ArgumentParser:
    """Flags of DrivingSDK's launchers, and those that a named script sets."""
    flags = _Parser(
        prog="launcher",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train through torchrun on this node, in the foreground; the exit status is "
        "the training's.",
        epilog="Values without a name are read in the order "
        + " ".join(_FLAGS[name] for name in POSITIONS)
        + "\n(address and port in either order). Flags of tools/train.py go behind --.\n"
        "WORLD_SIZE (nodes), NODE_RANK, MASTER_ADDR, MASTER_PORT and NUM_GPU_PER_NODE stand in "
        "for flags\nthat are not given.",
    )
    add = flags.add_argument
    add("values", nargs="*", help=argparse.SUPPRESS)
    add("--batch-size", metavar="N", help="samples a process (default: 4; demo: 1)")
    add("--num-npu", "--nproc", dest="nproc", metavar="N", help="processes a node (default: 8)")
    add("--epochs", metavar="N", help="default: 6 full, 1 performance (demo: 2 and 1)")
    add("--nnodes", metavar="N", help="nodes (default: 2 in the scripts of 16 processes, else 1)")
    add("--node-rank", metavar="R", help="number of this node, 0 leads (default: 0)")
    add("--master-addr", metavar="ADDRESS", help="address of node 0; needed with several nodes")
    add("--port", metavar="PORT", help=f"of the rendezvous (default: {PORT})")
    add("--max-restarts", metavar="N", help="start a failed job again, N times (default: 0)")
    add("--join-timeout", dest="join_timeout_s", metavar="S", help="seconds to wait for the others")
    add("--config", type=Path, action="append", help="config file (default: the script's)")
    add("--data-root", type=Path, help="folder of the data set (default: the config's)")
    add("--work-dir", type=Path, help="logs and checkpoints (default: work_dirs/<case>)")
    add("--load-from", "--weights", metavar="FILE", help="checkpoint to start from, or none")
    add("--swin", metavar="FILE", help="weights of the image backbone, or none")
    add("--resume", nargs="?", const="auto", metavar="CHECKPOINT", help="continue the work dir")
    add("--auto-scale-lr", action="store_true", help="scale the rate to the global batch")
    add("--demo", action="store_true", help="synthetic scenes and a small config")
    add("--dry-run", action="store_true", help="print the command and what is missing")
    _add_config_options(flags)
    add("--output-dir", type=Path, default=Path("test/output"), help="log and result file")
    add("--case", help="name of the log; set by the scripts")
    add("--kind", choices=KINDS, default="full", help="set by the scripts")
    add("--precision", choices=PRECISIONS, default="fp32", help="set by the scripts")
    add("--network", default="BEVFusion", help="name in the result file")
    return flags


def _add_config_options(flags: argparse.ArgumentParser) -> None:
    flags.add_argument(
        "--cfg-options",
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="override the config",
    )


def from_arguments(argv: Sequence[str]) -> JobOptions:
    """Options from a command line and the cluster's variables.

    Args:
        argv: flags and positions; what follows ``--`` goes to ``tools/train.py``.

    Raises:
        ValueError: an unknown flag, a value out of its range, or values that contradict.
    """
    _refuse_empty(argv)
    own, rest = _split(argv)
    given = vars(parser().parse_intermixed_args(own))
    notes: list[str] = []
    _take_positions(given, given.pop("values"))
    _take_variables(given, notes)
    numbers = {name: _number(name, given.pop(name)) for name in _LEAST}
    given |= {name: value for name, value in numbers.items() if value is not None}
    given["config"] = _config(given)
    _add_train_flags(given, rest)
    if given["case"]:
        _add_defaults(given)
    options = JobOptions(
        **{name: value for name, value in given.items() if value is not None}, notes=tuple(notes)
    )
    _check(options)
    return options


def _refuse_empty(words: Sequence[str]) -> None:
    """An unset variable must not become a training from scratch."""
    for before, word in zip(["", *words], words, strict=False):
        flag, equals, value = word.partition("=")
        if not word.strip() or (flag.startswith("--") and equals and not value.strip()):
            name = flag if equals else before
            raise ValueError(
                f"job: {name or 'the first value'} must have a value, got an empty one; try "
                "without it, or set the variable that it is taken from"
            )


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    words = list(argv)
    if "--" not in words:
        return words, []
    at = words.index("--")
    return words[:at], words[at + 1 :]


def _flag(name: str) -> str:
    return _FLAGS.get(name, "--" + name.removesuffix("_s").replace("_", "-"))


def _take_positions(given: dict[str, Any], values: Sequence[str]) -> None:
    if len(values) > len(POSITIONS):
        raise ValueError(
            f"job: at most {len(POSITIONS)} values without a name must be given, got {len(values)}"
        )
    values = list(values)
    if len(values) == len(POSITIONS) and values[5].isdecimal():  # DrivingSDK: port, then address
        values[5], values[6] = values[6], values[5]
    for name, value in zip(POSITIONS, values, strict=False):
        if given[name] not in (None, value):
            raise ValueError(
                f"job: {_flag(name)} must be given once, got {given[name]} and, by its position, "
                f"{value}"
            )
        given[name] = value


def _take_variables(given: dict[str, Any], notes: list[str]) -> None:
    """Fill what no flag gave from the cluster's variables; a flag wins, and that is said."""
    for name, (variable, value) in envs.cluster().items():
        if given[name] is None:
            given[name] = value
            notes.append(f"{_flag(name)}={value} from {variable}")
        elif given[name] != value:
            notes.append(f"{_flag(name)}={given[name]} wins over {variable}={value}")


def _number(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdecimal() or int(text) < _LEAST[name]:
        raise ValueError(
            f"job: {_flag(name)} must be a whole number of {_LEAST[name]} or more, got {text!r}"
        )
    return int(text)


def _config(given: dict[str, Any]) -> Path:
    """The last config that was named: the user's comes after the script's."""
    named: list[Path] = given["config"] or []
    if given["demo"] and len(named) > bool(given["case"]):
        raise ValueError(
            f"job: --demo must stand without --config, it brings its own, got {named[-1]}; try one "
            "of the two"
        )
    if not named and not given["demo"]:
        raise ValueError("job: --config must name a config file, got none")
    return named[-1] if named else CONFIG


def _add_train_flags(given: dict[str, Any], words: Sequence[str]) -> None:
    """Check flags of the training before any process sees them; take those that are ours too.

    The launcher then looks at what the training will see, and each is handed on once.
    """
    flags = train.parser()
    flags.error = _Parser.error.__get__(flags)  # type: ignore[method-assign]
    flags.parse_args([str(given["config"]), *words])
    shared = _Parser(prog="train", add_help=False)
    shared.add_argument("--work-dir", type=Path)
    shared.add_argument("--resume", nargs="?", const="auto")
    shared.add_argument("--amp", action="store_true")
    shared.add_argument("--auto-scale-lr", action="store_true")
    _add_config_options(shared)
    theirs, rest = shared.parse_known_args(words)
    for name in ("work_dir", "resume"):
        ours, other = given[name], getattr(theirs, name)
        if ours and other:
            raise ValueError(f"job: {_flag(name)} must be given once, got {ours} and {other}")
        given[name] = ours or other
    if theirs.amp:
        given["precision"] = "fp16"
    given["auto_scale_lr"] |= theirs.auto_scale_lr
    given["cfg_options"] = (*given["cfg_options"], *theirs.cfg_options)
    given["train_flags"] = tuple(rest)


def _add_defaults(given: dict[str, Any]) -> None:
    """What a named script leaves to the user."""
    demo, full = given["demo"], given["kind"] == "full"
    given.setdefault("batch_size", 1 if demo else 4)
    given.setdefault("epochs", (2 if demo else 6) if full else 1)
    given.setdefault("nnodes", 2 if _is_of_several_nodes(given["case"]) else 1)
    if given["work_dir"] is None:
        processes = given["nnodes"] * given.get("nproc", JobOptions.nproc)
        name = _sized(given["case"], processes) + ("_demo" if demo else "")
        given["work_dir"] = Path("work_dirs") / name


def _sized(case: str, processes: int) -> str:
    """``train_full_8p_base_fp16`` with another number of processes."""
    return _CASE_SIZE.sub(f"_{processes}p", case)


def _is_of_several_nodes(case: str) -> bool:
    return case.startswith("nnodes_")


def _check(options: JobOptions) -> None:
    if options.case and not _is_of_several_nodes(options.case) and options.nnodes != 1:
        raise ValueError(
            f"job: {options.case} must run on 1 node, got {options.nnodes} (--nnodes or "
            "WORLD_SIZE); try test/nnodes_train_*.sh"
        )
    if options.resume and options.resume.isdecimal():
        raise ValueError(
            f"job: --resume must be a checkpoint, got {options.resume}, which looks like a value "
            "without a name; try --resume at the end"
        )
    if options.node_rank >= options.nnodes:
        raise ValueError(
            f"job: --node-rank must be in 0..{options.nnodes - 1} for {options.nnodes} node(s), "
            f"got {options.node_rank}"
        )
    if options.nnodes > 1 and not options.master_addr:
        raise ValueError(
            "job: --master-addr must be the address of node 0, got none; try --master-addr=ADDRESS"
        )
    if options.port > 65535:
        raise ValueError(f"job: --port must be in 1..65535, got {options.port}")
    wrong = [option for option in options.cfg_options if "=" not in option]
    if wrong:
        raise ValueError(f"job: --cfg-options must be KEY=VALUE pairs, got {wrong[0]!r}")
