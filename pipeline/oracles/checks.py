"""What is compared with what: for each rule, the engine's numbers and an independent implementation's, on one network."""

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.api import rule
from pipeline.engine import walk
from pipeline.engine.network import LINEAR, RELU, Network, Record
from pipeline.engine.rules import RULES, AlphaBeta, Epsilon, ExcitationBp, FirstLayer, Rule
from pipeline.oracles import local, peers
from pipeline.oracles.local import Term

Pair = tuple[Tensor, Tensor]  # the engine's numbers and the reference's, samples along dimension 0
FILTERS = ("gbp", "deconvnet", "rectgrad")  # rules that are a filter at the ReLUs and the gradient elsewhere
LRP = ("lrp", "dtd", "lrp_alphabeta", "lrp_epsilon", "excitation_bp")


class NotComparable(Exception):
    """Why a reference can't say anything here."""


@dataclass(frozen=True)
class Case:
    """A network in float64, the same as its author wrote it (`original`), and its forward pass."""

    network: Network
    original: nn.Module
    record: Record

    @cached_property
    def x(self) -> Tensor:
        return self.record.x.contiguous()  # a view in the model may count on it

    @cached_property
    def target(self) -> Tensor:
        """The class of the least logit but 0: it is negative, as a rule, which shows errors of sign."""
        logits = self.record.logits
        return logits.masked_fill(logits == 0, float("inf")).argmin(1)

    @cached_property
    def masked(self) -> nn.Module:
        return peers.hookable(self.network, through=False)

    @cached_property
    def passing(self) -> nn.Module:
        return peers.hookable(self.network, through=True)

    @property
    def levels(self) -> list[int]:
        """Some N, 1 and L among them."""
        depth = self.network.depth
        return sorted({1, depth // 3, 2 * depth // 3, depth} - {0})

    @cached_property
    def cascades(self) -> dict[tuple[str, int], Tensor]:
        """(rule, N): R_N of cascade substitution."""
        names = [name for name in (*FILTERS, "lrp", "activation") if name in RULES]
        maps = walk.cascade(self.record, [rule(name) for name in names], self.target)
        return {(names[i], n): r for i, n, r in maps if n in self.levels}

    @property
    def box(self) -> tuple[Tensor, Tensor]:
        if any(op.first and op.inputs != (0,) for op in self.network.ops):
            raise NotComparable("Zennit's z^B does not know of the padding before the first layer")
        assert self.network.bounds is not None  # or the engine has refused
        low, high = (bound.to(self.x)[None] for bound in self.network.bounds)
        return low, high

    def filter(self, name: str) -> peers.Filter:
        quantile = getattr(rule(name), "quantile", 0)

        def by_sample(r: Tensor, z: Tensor, kind: str) -> Tensor:
            return torch.stack([local.relu_step(name, *of, kind, quantile) for of in zip(r, z, strict=True)])

        return by_sample

    def filtered(self, name: str, layers: int | None = None) -> Tensor:
        return peers.filtered_autograd(self.network, self.filter(name), self.x, self.target, layers)


@dataclass(frozen=True)
class Check:
    """pairs: may raise NotComparable, ImportError where a library is missing, and UserError where the rule refuses the network."""

    rule: str
    setting: str
    reference: str
    pairs: Callable[[Case], Iterable[Pair]]


def checks(case: Case) -> list[Check]:
    found = [*whole_maps(), *cascades(), *local_steps(case)]
    return [check for check in found if check.rule in RULES]


# ---- whole maps --------------------------------------------------------------------------------------------------------


def whole_maps() -> Iterator[Check]:
    def check(
        name: str, reference: str, expected: Callable[[Case, Any], Tensor], bottom: bool = False, **settings: Any
    ) -> Check:
        def pairs(case: Case) -> list[Pair]:
            by = rule(name, **settings)
            found = walk.attribute(case.record, by, case.target, bottom)
            try:
                return [(found, expected(case, by))]
            except (ImportError, NotComparable):
                raise
            except Exception as error:  # of a library, on a network that it does not expect
                raise NotComparable(
                    f"{reference} stops with {type(error).__name__}: {(str(error) or '-').splitlines()[0]}"
                ) from error

        return Check(name, said(**({"with": "bottom"} if bottom else {}), **settings), reference, pairs)

    def zennit(case: Case, start: str, layer: Callable[[], Any] | None = None, box: bool = False) -> Tensor:
        return peers.zennit_lrp(case.passing, case.x, case.target, start, case.box if box else None, layer)

    def gradient(case: Case) -> Tensor:
        return peers.autograd(case.original, case.x, case.target)

    yield check("grad", "autograd", lambda case, by: gradient(case))
    yield check("grad", "autograd", lambda case, by: case.x * gradient(case), bottom=True, times_input=True)
    yield check("gbp", "captum", lambda case, by: peers.captum_gbp(case.masked, case.x, case.target))
    yield check("gbp", "zennit", lambda case, by: peers.zennit_gbp(case.masked, case.x, case.target))
    yield check("deconvnet", "captum", lambda case, by: peers.captum_deconvnet(case.passing, case.x, case.target))
    yield check("deconvnet", "zennit", lambda case, by: peers.zennit_deconvnet(case.passing, case.x, case.target))
    for name in FILTERS:
        yield check(name, "autograd, filtered", lambda case, by, name=name: case.filtered(name))
    yield check(
        "rectgrad",
        "autograd, filtered",
        lambda case, by: (case.x * case.filtered("rectgrad")).clamp(min=0),
        bottom=True,
    )
    for start in ("unit", "logit"):
        yield check("lrp", "zennit", lambda case, by, start=start: zennit(case, start), bottom=True, start_at=start)
        yield check(
            "dtd", "zennit", lambda case, by, start=start: zennit(case, start, box=True), bottom=True, start_at=start
        )
    alpha_beta = lambda case, by: zennit(case, "unit", lambda: peers.zennit_alpha_beta(by.alpha))  # noqa: E731
    epsilon = lambda case, by: zennit(case, "unit", lambda: peers.zennit_epsilon(by.epsilon, by.bias))  # noqa: E731
    yield check("lrp_alphabeta", "zennit", alpha_beta, bottom=True, start_at="unit")
    yield check("lrp_epsilon", "zennit", epsilon, bottom=True, start_at="unit")
    yield check("excitation_bp", "zennit", lambda case, by: zennit(case, "unit"), bottom=True, start_at="unit")


def said(**settings: Any) -> str:
    return " ".join(f"{name} {value}" if name == "with" else f"{name}={value}" for name, value in settings.items())


# ---- cascade substitution ----------------------------------------------------------------------------------------------


def cascades() -> Iterator[Check]:
    """R_N for some N. Below a seed, and below LRP's layers, the reference is autograd."""
    for name in FILTERS:
        yield Check(
            name,
            "cascade",
            "autograd, filtered",
            lambda case, name=name: [(case.cascades[name, n], case.filtered(name, n)) for n in case.levels],
        )
    yield Check(
        "lrp",
        "cascade",
        "autograd",
        lambda case: [(case.cascades["lrp", n], below(case, n, chain(case, rule("lrp"), n))) for n in case.levels],
    )
    yield Check("activation", "cascade", "autograd", activations)


def activations(case: Case) -> list[Pair]:
    depth = case.network.depth
    return [
        (case.cascades["activation", n], below(case, n, case.record.activation(depth - n)))
        for n in case.levels
        if n < depth
    ]


def chain(case: Case, by: Rule, n: int) -> Tensor:
    """r_{L-N} under the rule, step by step (each of which local_steps checks)."""
    depth, start = case.network.depth, by.start(walk.one_hot(case.record, case.target), case.record.logits)
    return walk.walk(case.record, start, lambda layer: by, top=depth, bottom=depth - n)


def below(case: Case, n: int, r: Tensor) -> Tensor:
    return peers.autograd_below(case.network, case.x, case.network.ends[case.network.depth - n], r)


# ---- every step by itself ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """What a rule did at one operation: r at its output -> `sent`, r at each input."""

    at: walk.Local
    r: Tensor
    sent: tuple[Tensor, ...]


def steps(case: Case, by: Rule) -> list[Step]:
    """The rule's walk to the input, seen at its ReLUs, its layers and, if it has a say there, its sums."""
    seen: list[Step] = []

    def watched(method: Any) -> Any:
        def call(self, r: Tensor, at: walk.Local) -> Any:
            sent = method(self, r, at)
            seen.append(Step(at, r, (sent,) if isinstance(sent, Tensor) else tuple(sent)))
            return sent

        return call

    cls = type(by)
    watching = type(
        cls.__name__,
        (cls,),
        {name: watched(getattr(cls, name)) for name in ("relu", "linear", "add") if hasattr(cls, name)},
    )
    spy = copy.copy(by)
    object.__setattr__(spy, "__class__", watching)  # still an instance of the rule's own class
    chain(case, spy, case.network.depth)
    return seen


def local_steps(case: Case) -> Iterator[Check]:
    layers: dict[int, local.Layer] = {}  # as matrices, for all checks

    def check(
        name: str, chosen: Callable[[walk.Local], bool] = lambda at: True, where: str = "each step", **settings: Any
    ) -> Check:
        def pairs(case: Case) -> Iterator[Pair]:
            by = rule(name, **settings)
            for step in steps(case, by):
                if chosen(step.at):
                    for b in range(len(case.x)):
                        yield from compared(name, by, step, b, layers)

        return Check(name, f"{where} {said(**settings)}".strip(), "dense", pairs)

    yield check("grad")
    for name in FILTERS:
        yield check(name)
    first = lambda at: at.first  # noqa: E731
    for name in LRP:
        yield check(name, first_layer="plain")
    for first_layer in ("split", "plus"):
        yield check("lrp", first, "first layer", first_layer=first_layer)
    for name in ("lrp_alphabeta", "lrp_epsilon"):
        yield check(name, first, "first layer", first_layer="split")
    yield check("dtd", first, "first layer", first_layer="zbox")
    yield check("excitation_bp", lambda at: at.last, "last layer", contrastive=True)
    if any(op.kind == "add" for op in case.network.ops):
        yield check("lrp", lambda at: at.op.kind == "add", "each sum", add_by="zplus")


def compared(name: str, by: Rule, step: Step, b: int, layers: dict[int, local.Layer]) -> Iterator[Pair]:
    """Sample b at this step: all units of a ReLU or a sum, all channels at one place of a layer's input. LRP in relevances."""
    at, r = step.at, step.r[b].cpu()
    a, out, sent = at.input[b].cpu(), at.output[b].cpu(), step.sent[0][b].cpu()
    if at.op.kind in RELU and name in LRP:
        yield (sent * a)[None], (r * local.activation(a, at.op.kind))[None]
    elif at.op.kind in RELU:
        yield sent[None], local.relu_step(name, r, a, at.op.kind, getattr(by, "quantile", 0))[None]
    elif at.op.kind in LINEAR:
        layer = layers.setdefault(at.op.output, local.layer_of(at.op.module))  # type: ignore[arg-type]
        a, out, r, sent = (local.as_image(v) for v in (a, out, r, sent))
        place = place_of(sent, b)
        terms = terms_of(by, at) if name in LRP else None
        found = sent.flatten(1)[:, place]
        if terms is None:
            yield found[None], local.plain_step(layer, (a.shape[1], a.shape[2]), place, r)[None]
            return
        is_relevance = terms[0].contribution is local.z_box
        box = tuple(local.as_image(v[b].cpu()) for v in at.bounds) if is_relevance else None
        expected = local.shared_step(layer, a, place, r * out, terms, box)  # type: ignore[arg-type]
        yield (found if is_relevance else found * a.flatten(1)[:, place])[None], expected[None]
    elif getattr(by, "add_by", None) is not None and by.add_by.value == "zplus":  # type: ignore[attr-defined]
        for v, s, expected in zip(
            at.inputs, step.sent, local.positive_sum_step([v[b].cpu() for v in at.inputs], r * out), strict=True
        ):
            yield (s[b].cpu() * v[b].cpu())[None], expected[None]


def place_of(sent: Tensor, b: int) -> int:
    """Where the map is largest, and for every other sample anywhere."""
    size = sent.abs().sum(0).flatten()
    return (
        int(size.argmax())
        if b % 2 == 0
        else int(torch.randint(len(size), (1,), generator=torch.Generator().manual_seed(b)))
    )


def terms_of(by: Rule, at: walk.Local) -> list[Term] | None:
    """How the rule shares relevance at this layer; None for the plain gradient."""
    first = by.first_layer if at.first else FirstLayer.split  # type: ignore[attr-defined]
    if first is not FirstLayer.split:
        return {
            FirstLayer.plain: None,
            FirstLayer.plus: [Term(local.positive_weights)],
            FirstLayer.zbox: [Term(local.z_box)],
        }[first]
    if isinstance(by, AlphaBeta):
        return [Term(local.positive, by.alpha), Term(local.negative, 1 - by.alpha)][: 1 + (by.alpha != 1)]
    if isinstance(by, ExcitationBp):
        return [Term(local.positive), Term(local.negative, -1.0)][: 1 + (by.contrastive and at.last)]
    assert isinstance(by, Epsilon)
    return [Term(local.whole, epsilon=by.epsilon, bias=by.bias)]
