"""What a rule sees of the forward pass at one operation."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.engine.gradients import GRADIENTS, transpose
from pipeline.engine.lowering import Op
from pipeline.engine.network import Record, once
from pipeline.errors import UserError

ROOM = 2**28  # bytes


@dataclass(frozen=True)
class Place:
    """One operation of one forward pass. Tensors have the record's batch size B."""

    record: Record
    op: Op

    @property
    def input(self) -> Tensor:
        """A_{l-1} of a layer, z of a ReLU."""
        return self.record.values[self.op.inputs[0]]

    @property
    def inputs(self) -> list[Tensor]:
        """The summands of a sum."""
        return [self.record.values[i] for i in self.op.inputs]

    @property
    def output(self) -> Tensor:
        return self.record.values[self.op.output]

    @property
    def mask(self) -> Tensor:
        """M, bool."""
        return self.record.mask(self.op)

    @property
    def gain(self) -> Tensor:
        """sigma(z) / z, 0 at z = 0: the mask of a ReLU, but for what a ReLU6 saturates."""
        if self.op.kind == "relu":
            return self.mask
        return torch.where(self.input > 0, self.output / self.input, 0)

    @property
    def weight(self) -> Tensor:
        """W of a conv or linear layer, (out, in, ...)."""
        return self.op.weight

    @property
    def bias(self) -> Tensor | None:
        """b of a conv or linear layer, of a shape that meets its output."""
        b = self.op.layer.bias
        return b.view(-1, 1, 1) if b is not None and isinstance(self.op.layer, torch.nn.Conv2d) else b

    @property
    def first(self) -> bool:
        """Whether no layer is below this one."""
        return self.op.first

    @property
    def last(self) -> bool:
        """Whether this is layer L."""
        return self.op is self.record.network.layers[-1]

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """[l_i, h_i] of each input of a first layer, of its shape; 0 in padding.

        Raises UserError if the network was traced without them.
        """
        if self.record.network.bounds is None:
            raise UserError(
                "the z^B rule needs the bounds of the pixels; give trace(...) the mean and std of their normalisation"
            )
        low, high = ({0: bound.to(self.record.x).expand_as(self.record.x)} for bound in self.record.network.bounds)
        for op in self.record.network.unit(1):
            if op.kind == "pad" and op.inputs[0] in low:
                low[op.output], high[op.output] = op.call(low[op.inputs[0]]), op.call(high[op.inputs[0]])
        if self.op.inputs[0] not in low:
            raise UserError(f"the z^B rule knows layers that read the pixels, and {self.op.where} does not")
        return low[self.op.inputs[0]], high[self.op.inputs[0]]

    def gradient(self, r: Tensor) -> Sequence[Tensor]:
        """r at the output -> the plain gradient's r at each input."""
        return GRADIENTS[self.op.kind](r, self.record, self.op)

    def transpose(self, r: Tensor, weight: Tensor) -> Tensor:
        """r at z -> weight r at the input (W r in the paper's notation)."""
        return transpose(r, weight, self.op, self.input.shape)

    def once(self, what: Hashable, find: Callable[[], Tensor]) -> Tensor:
        """What a rule makes of the forward pass here, for all walks over its record while there is room."""
        return once(self.record.cache, (what, self.op.output), find, ROOM)

    def apply(self, a: Tensor, weight: Tensor) -> Tensor:
        """weight^T a, without bias."""
        layer = self.op.layer
        if isinstance(layer, torch.nn.Linear):
            return F.linear(a, weight)
        return F.conv2d(a, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)
