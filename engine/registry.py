"""mmengine registries under the scope ``anybev``; a config finds classes here by mmdet3d's names.

Children of mmengine's own registries: what is not found here is looked up there. The modules in
``locations`` register on import, when a registry is first asked.
"""

from collections.abc import Mapping
from typing import Any

from mmengine import registry as root

SCOPE = "anybev"
# mmdetection3d's configs name their host's classes with a scope; AnyBEV's own bear those names. The
# scope must not reach mmengine, which imports the host when it is installed.
_SCOPES = (SCOPE, "mmdet", "mmdet3d")


def bare_name(name: str) -> str:
    """A type's name without the scope of a package whose names AnyBEV's classes bear."""
    scope, _, bare = name.rpartition(".")
    return bare if scope in _SCOPES else name


def build(registry: root.Registry, config: Mapping[str, Any]) -> Any:
    """What a config describes, whatever scope a runner of this process has made the default."""
    return registry.build({"_scope_": SCOPE, **config})


MODELS = root.Registry(
    "model", parent=root.MODELS, scope=SCOPE, locations=["anybev.engine.bindings.models"]
)
TASK_UTILS = root.Registry(
    "task util", parent=root.TASK_UTILS, scope=SCOPE, locations=["anybev.engine.bindings.models"]
)
DATASETS = root.Registry(
    "dataset", parent=root.DATASETS, scope=SCOPE, locations=["anybev.engine.bindings.data"]
)
TRANSFORMS = root.Registry(
    "transform", parent=root.TRANSFORMS, scope=SCOPE, locations=["anybev.engine.bindings.data"]
)
DATA_SAMPLERS = root.Registry(
    "data sampler",
    parent=root.DATA_SAMPLERS,
    scope=SCOPE,
    locations=["anybev.engine.bindings.data"],
)
METRICS = root.Registry(
    "metric", parent=root.METRICS, scope=SCOPE, locations=["anybev.engine.metrics"]
)
LOOPS = root.Registry("loop", parent=root.LOOPS, scope=SCOPE, locations=["anybev.engine.loops"])
HOOKS = root.Registry("hook", parent=root.HOOKS, scope=SCOPE, locations=["anybev.engine.hooks"])
OPTIM_WRAPPERS = root.Registry(
    "optim wrapper", parent=root.OPTIM_WRAPPERS, scope=SCOPE, locations=["anybev.engine.amp"]
)
RUNNERS = root.Registry(
    "runner", parent=root.RUNNERS, scope=SCOPE, locations=["anybev.engine.runner"]
)
LOG_PROCESSORS = root.Registry(
    "log processor",
    parent=root.LOG_PROCESSORS,
    scope=SCOPE,
    locations=["anybev.engine.log_lines"],
)

# Registries that AnyBEV adds nothing to: their children only let a config of scope ``anybev`` find
# mmengine's optimizers, schedulers and visualizers without a warning.
for _registry in (
    root.OPTIMIZERS,
    root.OPTIM_WRAPPER_CONSTRUCTORS,
    root.PARAM_SCHEDULERS,
    root.VISUALIZERS,
    root.VISBACKENDS,
    root.EVALUATOR,
    root.MODEL_WRAPPERS,
    root.WEIGHT_INITIALIZERS,
):
    root.Registry(_registry.name, parent=_registry, scope=SCOPE)
