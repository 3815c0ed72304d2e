"""The network without what a law did to its weights: what many draws are compared with is computed once."""

import hashlib
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from pipeline.engine.network import Network, Record, once
from pipeline.engine.rules import External, Method
from pipeline.experiments.external import map_of

ROOM = 2**28  # bytes


@dataclass
class OriginalCache:
    """What one network made of images that come again with each draw of a law: tensors by what they are, as many as
    there is room for; another network's take their place."""

    room: int = ROOM
    _network: weakref.ref[Network] | None = None
    _kept: dict[Hashable, Tensor] = field(default_factory=dict)

    def once(self, network: Network, key: Hashable, find: Callable[[], Tensor]) -> Tensor:
        if self._network is None or network is not self._network():
            self._network, self._kept = weakref.ref(network), {}
        return once(self._kept, key, find, self.room)


@dataclass
class Unmodified:
    """The network without what the weights' law did to its layers, on images x (B, C, H, W), built and run when it is
    first needed."""

    original: Callable[[], Network]
    x: Tensor
    cache: OriginalCache

    @cached_property
    def network(self) -> Network:
        return self.original()

    @cached_property
    def record(self) -> Record:
        return self.network.forward(self.x)

    @cached_property
    def _seen(self) -> str:
        values = self.x.detach().cpu().contiguous().view(torch.uint8)  # numpy has no bfloat16
        return hashlib.sha256(values.numpy().tobytes()).hexdigest() + f"{self.x.dtype}{tuple(self.x.shape)}"

    def once(self, what: Hashable, find: Callable[[Record], Tensor]) -> Tensor:
        return self.cache.once(self.network, (self._seen, what), lambda: find(self.record))

    @property
    def logits(self) -> Tensor:
        return self.once("logits", lambda record: record.logits)

    def map(self, rule: Method, classes: Tensor) -> Tensor:
        """Of the classes (B,), without bottom process (map_of)."""
        if isinstance(rule, External):  # which may draw at random
            return map_of(self.record, rule, classes)
        return self.once((repr(rule), *classes.tolist()), lambda record: map_of(record, rule, classes))
