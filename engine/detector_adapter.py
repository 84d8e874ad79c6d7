"""A plain detector in the shape that mmengine's Runner drives."""

from typing import Any

from mmengine.model import BaseDataPreprocessor, BaseModel
from torch import nn

from anybev.datasets.sample import Batch


class BatchToDevice(BaseDataPreprocessor):
    """Moves a ``{"batch": Batch}`` to the model's device."""

    def forward(self, data: dict[str, Batch], training: bool = False) -> dict[str, Batch]:
        """The same dict with its tensors on the device."""
        return {"batch": data["batch"].to(self.device, non_blocking=True)}


class DetectorAdapter(BaseModel):
    """Gives a detector ``train_step``, ``val_step`` and ``test_step``.

    Its state dict is the detector's own, so checkpoints carry mmdetection3d's keys.
    """

    detector: Any

    def __init__(self, detector: nn.Module) -> None:
        super().__init__(data_preprocessor=BatchToDevice())
        self.detector = detector

    def forward(self, batch: Batch, mode: str = "tensor") -> Any:
        """``loss`` gives named losses, ``predict`` a list of Detections, ``tensor`` raw outputs."""
        if mode == "loss":
            return self.detector.loss(batch)
        if mode == "predict":
            return self.detector.predict(batch)
        return self.detector(batch)

    def init_weights(self) -> None:
        """The detector initialised itself when it was built."""

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The detector's state dict."""
        state: dict[str, Any] = self.detector.state_dict(*args, **kwargs)
        return state

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Fill the detector."""
        return self.detector.load_state_dict(*args, **kwargs)
