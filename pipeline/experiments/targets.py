"""Which class is explained."""

import hashlib
import re
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from pipeline.engine.network import Network, Record
from pipeline.engine.rules import External, Method
from pipeline.errors import UserError
from pipeline.experiments.external import map_of
from pipeline.images.batches import Batch

ROOM = 2**28  # bytes


@dataclass
class Memory:
    """What one network made of images that come again with each draw of a law: tensors by what they are, as many as
    there is room for; another network's take their place."""

    room: int = ROOM
    _network: weakref.ref[Network] | None = None
    _kept: dict[Hashable, Tensor] = field(default_factory=dict)

    def once(self, network: Network, key: Hashable, find: Callable[[], Tensor]) -> Tensor:
        if self._network is None or network is not self._network():
            self._network, self._kept = weakref.ref(network), {}
        if key in self._kept:
            return self._kept[key]
        found = find()
        if sum(tensor.nbytes for tensor in self._kept.values()) + found.nbytes <= self.room:
            self._kept[key] = found
        return found


@dataclass
class Before:
    """The network without what the weights' law did to its layers, on images x (B, C, H, W)."""

    network: Network
    x: Tensor
    memory: Memory

    @cached_property
    def record(self) -> Record:
        return self.network.forward(self.x)

    @cached_property
    def _seen(self) -> str:
        x = self.x.detach().cpu().contiguous()
        return hashlib.sha256(x.numpy().tobytes()).hexdigest() + f"{x.dtype}{tuple(x.shape)}"

    def once(self, what: Hashable, find: Callable[[Record], Tensor]) -> Tensor:
        return self.memory.once(self.network, (self._seen, what), lambda: find(self.record))

    @property
    def logits(self) -> Tensor:
        return self.once("logits", lambda record: record.logits)

    def map(self, rule: Method, classes: Tensor) -> Tensor:
        """Of the classes (B,), without bottom process (map_of)."""
        if isinstance(rule, External):  # which may draw at random
            return map_of(self.record, rule, classes)
        return self.once((repr(rule), *classes.tolist()), lambda record: map_of(record, rule, classes))


@dataclass(frozen=True)
class Target:
    """setting: `decision`, `label`, a class index, or `original`: the decision of the network without what the
    weights' law did to its layers, for comparisons of randomised or removed weights. original: that network, built
    when it is first asked for; memory: of what it made of images."""

    setting: str
    original: Callable[[], Network]
    memory: Memory = field(default_factory=Memory)

    def before(self, x: Tensor) -> Before:
        """The original network on images x (B, C, H, W)."""
        return Before(self.original(), x, self.memory)

    def classes(self, batch: Batch, logits: Tensor) -> Tensor:
        """(B,) classes to explain. Raises UserError for a label that is not known, and for a class that the model
        has not."""
        if self.setting == "decision":
            return logits.argmax(1)
        if self.setting == "original":
            return self.before(batch.x).logits.argmax(1)
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
