"""What training and evaluation share: flags, work directory, the runner."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from mmengine.config import Config

from anybev import envs
from anybev.device import current_backend
from anybev.engine import config as configs
from anybev.engine import host as hosts
from anybev.engine.final import tells_final_failures
from anybev.engine.runner import Runner

_USERS_INPUT = (
    ValueError,
    TypeError,
    FileNotFoundError,
    NotADirectoryError,
    EOFError,
    envs.MachineError,
)
LAUNCHERS = ("none", "pytorch", "slurm", "mpi")


class _Options(argparse.Action):
    """``KEY=VALUE`` pairs; a word without ``=`` is named."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        options = dict(getattr(namespace, self.dest, None) or {})
        for pair in values:
            key, equals, value = pair.partition("=")
            if not equals:
                parser.error(f"--cfg-options must be KEY=VALUE pairs, got {pair!r}")
            options[key] = configs.option_value(value)
        setattr(namespace, self.dest, options)


def add_common_flags(parser: argparse.ArgumentParser) -> None:
    """Flags that mmdetection3d's train.py and test.py share."""
    parser.add_argument("--work-dir", help="folder of logs, checkpoints and results")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=_Options,
        metavar="KEY=VALUE",
        help="override config entries; a list as key='[a,b]' or key=a,b, a text with commas as "
        "key='\"a,b\"'",
    )
    parser.add_argument("--launcher", choices=LAUNCHERS, default="none", help="job launcher")
    # torchrun before 2.0 passes the rank as a flag, torch.distributed.launch with a dash.
    parser.add_argument(
        "--local_rank", "--local-rank", type=int, default=0, help="set by launchers"
    )


def prepare(args: argparse.Namespace, host: hosts.Prepare | None = None) -> Config:
    """Config with the common flags applied.

    Args:
        args: of the tool.
        host: makes mmdetection3d ready for a config of its own.
    """
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    options = dict(args.cfg_options or {})
    if getattr(args, "amp", False):  # keys of mixed precision are known from here on
        options.setdefault("optim_wrapper.type", "AmpOptimWrapper")
    config = configs.load(args.config, options, host)
    config.launcher = args.launcher
    if args.work_dir:
        config.work_dir = args.work_dir
    elif not config.get("work_dir"):
        config.work_dir = str(Path("work_dirs") / Path(args.config).stem)
    config.setdefault("env_cfg", {})
    found = config.env_cfg.get("dist_cfg", {})
    config.env_cfg["dist_cfg"] = {**found, "backend": current_backend().collective}
    return config


def build_runner(config: Config) -> Any:
    """The runner of a prepared config."""
    return hosts.build_runner(config) if hosts.is_host(config) else Runner.from_cfg(config)


def fail_clearly(main: Any) -> int:
    """Run ``main``; bad input or a machine that lacks something ends in one line and status 2.

    So does Ctrl-C, with status 130. Other errors keep their traceback.
    """
    try:
        with tells_final_failures():
            main()
    except KeyboardInterrupt:
        print("interrupted; training goes on with --resume", file=sys.stderr)
        return 130
    except _USERS_INPUT as error:
        if envs.traceback():
            raise
        print(f"error: {error} (ANYBEV_TRACEBACK=1 shows where)", file=sys.stderr)
        return 2
    return 0
