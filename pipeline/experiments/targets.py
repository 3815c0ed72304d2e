"""Which class is explained."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.engine.network import Network
from pipeline.errors import UserError
from pipeline.experiments.unmodified import OriginalCache, Unmodified
from pipeline.images.batches import Batch


@dataclass(frozen=True)
class Target:
    """setting: `decision`, `label`, a class index, or `original`: the decision of the network without what the
    weights' law did to its layers, for comparisons of randomised or removed weights. original: that network, built
    when it is first asked for; cache: of what it made of images."""

    setting: str
    original: Callable[[], Network]
    cache: OriginalCache = field(default_factory=OriginalCache)

    def unmodified(self, x: Tensor) -> Unmodified:
        """The original network on images x (B, C, H, W)."""
        return Unmodified(self.original, x, self.cache)

    def classes(self, batch: Batch, logits: Tensor) -> Tensor:
        """(B,) classes to explain. Raises UserError for a label that is not known, and for a class that the model
        has not."""
        if self.setting == "decision":
            return logits.argmax(1)
        if self.setting == "original":
            return self.unmodified(batch.x).logits.argmax(1)
        if self.setting == "label":
            if bool((batch.labels < 0).any()):
                raise UserError(
                    f"target=label needs labels, and {batch.names[int((batch.labels < 0).nonzero()[0])]} has none; set "
                    "target=decision"
                )
            classes = batch.labels
        else:
            if not re.fullmatch(r"-?\d+", self.setting):
                raise UserError(f"target={self.setting} is neither decision, original, label nor a class index")
            classes = torch.full_like(batch.labels, int(self.setting))
        if not 0 <= int(classes.min()) <= int(classes.max()) < logits.shape[1]:
            raise UserError(
                f"target={self.setting} asks for class {int(classes.max())}, but the model has the classes 0 to "
                f"{logits.shape[1] - 1}"
            )
        return classes


def check_labels(batch: Batch, count: int) -> None:
    """Raises UserError for a label that a model of `count` classes has not."""
    if len(beyond := (batch.labels >= count).nonzero()):
        b = int(beyond[0])
        raise UserError(
            f"{batch.names[b]} has the label {int(batch.labels[b])}, but the model has the classes 0 to {count - 1}; "
            "use data of the model's classes"
        )
