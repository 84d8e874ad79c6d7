"""GroupFree3D puts the boxes of all samples of a batch into one container."""

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

from torch import Tensor


def replace(original: Callable[..., Any]) -> Callable[..., Any]:
    """The same predictions, sample by sample, so that each has its own container.

    Upstream writes every sample into the same one: the second raises when it has another number of
    boxes, and replaces the first when it has not. A batch of one is upstream's, and so is each
    sample here.
    """

    @wraps(original)
    def predict_by_feat(
        self: Any,
        points: Sequence[Tensor],
        bbox_preds_dict: Mapping[str, Any],
        batch_input_metas: Sequence[dict],
        use_nms: bool = True,
        **named: Any,
    ) -> Any:
        if not use_nms:
            return original(self, points, bbox_preds_dict, batch_input_metas, use_nms, **named)
        results = []
        for i, (sample, meta) in enumerate(zip(points, batch_input_metas, strict=True)):
            own = {
                key: value[i : i + 1] if isinstance(value, Tensor) else value
                for key, value in bbox_preds_dict.items()
            }
            results += original(self, [sample], own, [meta], use_nms, **named)
        return results

    return predict_by_feat
