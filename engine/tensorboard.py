"""TensorBoard beside the log, for those who ask for it."""

from importlib.util import find_spec

from mmengine.config import Config

from anybev import envs

BACKEND = "TensorboardVisBackend"


def write_for_tensorboard(config: Config) -> None:
    """Also write curves for TensorBoard (``--tensorboard``).

    Args:
        config: gets one more of ``visualizer.vis_backends``, unless it has it.
    """
    if not config.get("visualizer"):
        config.visualizer = {"type": "Visualizer"}
    backends = list(config.visualizer.get("vis_backends") or [{"type": "LocalVisBackend"}])
    if all(backend["type"] != BACKEND for backend in backends):
        backends.append({"type": BACKEND})
    config.visualizer.vis_backends = backends


def require_tensorboard(config: Config) -> None:
    """Refuse a config that writes for TensorBoard where the package is missing.

    Raises:
        MachineError: it is.
    """
    visualizer = config.get("visualizer") or {}
    asked = any(backend["type"] == BACKEND for backend in visualizer.get("vis_backends") or ())
    if asked and find_spec("tensorboard") is None:
        raise envs.MachineError(
            "train: --tensorboard must have the package tensorboard installed, got none; try "
            ".venv/bin/pip install 'tensorboard>=2.18'"
        )
