"""What is compared with what: for each rule, the engine's numbers and an independent implementation's, on one network.

Whole maps and cascades are here, single steps in steps.py.
"""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from pipeline.engine import walk
from pipeline.engine.rules import RULES
from pipeline.oracles import peers
from pipeline.oracles.case import FILTERS, Case, Check, NotComparable, Pair, rule, said
from pipeline.oracles.steps import local_steps


def checks(case: Case) -> list[Check]:
    found = [*whole_maps(), *cascades(), *local_steps(case)]
    return [check for check in found if check.rule in RULES]


# ---- whole maps ------------------------------------------------------------------------------------------------------


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
    for reference, gbp, deconvnet in (
        ("captum", peers.captum_gbp, peers.captum_deconvnet),
        ("zennit", peers.zennit_gbp, peers.zennit_deconvnet),
    ):
        yield check("gbp", reference, lambda case, by, peer=gbp: peer(case.masked, case.x, case.target))
        yield check("deconvnet", reference, lambda case, by, peer=deconvnet: peer(case.passing, case.x, case.target))
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


# ---- cascade substitution --------------------------------------------------------------------------------------------


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
        lambda case: [(case.cascades["lrp", n], below(case, n, case.chain(rule("lrp"), n))) for n in case.levels],
    )
    yield Check("activation", "cascade", "autograd", activations)


def activations(case: Case) -> list[Pair]:
    depth = case.network.depth
    return [
        (case.cascades["activation", n], below(case, n, case.record.activation(depth - n)))
        for n in case.levels
        if n < depth
    ]


def below(case: Case, n: int, r: Tensor) -> Tensor:
    return peers.autograd_below(case.network, case.x, case.network.ends[case.network.depth - n], r)
