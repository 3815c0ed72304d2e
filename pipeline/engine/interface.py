"""What a rule is."""

from collections.abc import Sequence

from torch import Tensor

from pipeline.engine.place import Place


class Rule:
    """The plain gradient."""

    def start(self, onehot: Tensor, logits: Tensor) -> Tensor:
        """r_L; onehot, logits (B, K)."""
        return onehot

    def relu(self, r: Tensor, at: Place) -> Tensor:
        """r at the output of a ReLU -> r at its input z."""
        return r * at.mask

    def linear(self, r: Tensor, at: Place) -> Tensor:
        """r at z_l -> r at A_{l-1}."""
        return at.transpose(r, at.weight)

    def add(self, r: Tensor, at: Place) -> Sequence[Tensor]:
        """r at a residual sum -> r at each summand."""
        return at.gradient(r)

    def with_bottom(self) -> "Rule":
        """The same rule with its bottom process in the first layer."""
        return self

    def finish(self, r: Tensor, x: Tensor) -> Tensor:
        """r_0 -> R, the last step of the bottom process."""
        return r

    def above_first_layer(self) -> "Rule":
        """One for all rules that differ from this one in layer 1 alone: they share the whole descent above it."""
        return self
