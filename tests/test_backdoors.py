"""Controls of Fig. 9: what they draw from planted tables, and which cells they ask for."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from pipeline.figures import FIGURES, backdoor_tables, backdoors, save, style
from tests.pages import check_texts

ATTACKS = {"badnet": 3, "dynamic": 3, "inputaware": 2, "wanet": 2}  # networks of each
RULES = ("grad", "gbp", "rectgrad", "lrp", "dtd", "activation")
N, GOAL = 200, 0
KEPT = {
    "minmax": 0.5,
    "percentile": 0.7,
    "contrast": 0.9,
    "attribution": 0.5,
    "retriggered": 0.8,
    "cross": 0.2,
    "clean": 1.0,
}
DECIDES = {"triggered": 0.9, "transplanted": 0.6, "mean": 0.3}


def about(attack: str, network: int, clean: bool = False) -> dict:
    own = f"{attack}_w16_{200 + network}_cifar10"
    of = {"weights.path": f"clean_w16_{200 + network}_cifar10", "attack.path": own} if clean else {"weights.path": own}
    rest = {"attack": "planted", "attack.name": attack, "attack.path": None, "attack.training": None, "rule": "gbp"}
    model = {"model": "resnet18_cifar", "model.width": 16, "weights": "checkpoint", "data": "cifar10"}
    return {**rest, **model, "explained": "decision", "experiment.rescale": "minmax", "experiment.percent": 1.0, **of}


def share_of(share: float) -> np.ndarray:
    """Every image of N in its place: the first ones of each class, as many as the share."""
    return (np.arange(N) // 10) < round(share * N / 10)


def part(sample: str, name: str, success: float, kept: float, s: float, seed: int = 0, **cell) -> pd.DataFrame:
    """Ten classes, N / 10 images each; of those of the goal class all numbers are others, and must not count."""
    rng, label = np.random.default_rng(seed), np.arange(N) % 10
    decision = np.where(share_of(success), GOAL, label)
    noise = 0.1 * rng.normal(size=N)
    s_own = s + noise - 0.5 * (decision != GOAL)
    images = {"image": [f"i{i}" for i in range(N)], "sample": sample, "input": name, "label": label, "goal": GOAL}
    found = pd.DataFrame(images).assign(
        decision=decision, decision_star=np.where(share_of(kept), decision, 9 - decision)
    )
    found = found.assign(s_own=s_own, s_fixed=s_own - 0.2, missing="", correct=decision == label, margin=1.0)
    found.loc[label == GOAL, ["s_own", "s_fixed", "decision_star"]] = [-2.0, -2.0, 7]
    return found.assign(**cell)


def lit(clean: bool, **cell) -> pd.DataFrame:
    """Energy of image i: .2 + i / 1000 in clean networks, .1 * network + .05 * (place of the rule) more in others;
    twice the filter's rows as there are rules."""
    network, attack, rows = int(cell["weights.path"].split("_")[2]) - 199, cell["attack.name"], []
    for rule in RULES:
        for name in ("attribution", "filter"):
            more = 0.02 if name == "filter" else 0.1 * network + 0.05 * RULES.index(rule)
            value = 0.2 + np.arange(N) / 1000 + (0 if clean else more)
            images = {"image": [f"i{i}" for i in range(N)], "label": np.arange(N) % 10, "goal": GOAL, "map": name}
            everywhere = attack == "wanet"
            found = pd.DataFrame(images).assign(energy=np.nan if everywhere else value, rank_correlation=value)
            rows.append(found.assign(share=0.0 if everywhere else 0.0088, **{**cell, "rule": rule}))
    found = pd.concat(rows, ignore_index=True)
    return found.sample(frac=1, random_state=0) if clean else found  # pairs are found by name, not by place


def tables(attacks: dict[str, int] = ATTACKS, data: str = "cifar10", tuned: bool = True) -> dict[str, pd.DataFrame]:
    each = [(attack, i) for attack, n in attacks.items() for i in range(n)]

    def kis(
        sample: str, name: str, kept: str, only: Sequence[str] = tuple(attacks), clean: bool = False, **more
    ) -> list:
        return [
            part(
                sample,
                name,
                0.1 if clean else DECIDES.get(sample, 0.9),
                KEPT[kept],
                0.5,
                i,
                **about(a, i, clean) | more,
            )
            for a, i in each
            if a in only
        ]

    files = ["badnet1px", "badnet2px", "badnet", "badnet5px", *(["badnettuned"] if tuned else [])]
    variants = [
        part(
            "triggered",
            "attribution",
            0.9,
            0.5,
            0.1 * k,
            k,
            **about("badnet", 0) | {"weights.path": f"{file}_w16_200_cifar10"},
        )
        for k, file in enumerate(files)
    ]
    found = {
        "rescale": [
            t for how in backdoors.RESCALES for t in kis("triggered", "attribution", how, **{"experiment.rescale": how})
        ],
        "decides": [t for sample in DECIDES for t in kis(sample, "edge", "minmax")],
        "decides_clean": [t for sample in DECIDES for t in kis(sample, "edge", "minmax", clean=True)][::-1],
        "again": [t for name in ("attribution", "retriggered") for t in kis("triggered", name, name)],
        "cross": [t for s in ("clean", "cross") for t in kis(s, "attribution", s, ("inputaware", "wanet"))],
        "variants": variants,
        "highlight": [lit(False, **about(a, i)) for a, i in each],
        "highlight_clean": [lit(True, **about(a, i, True)) for a, i in each],
    }
    empty = part("cross", "attribution", 0.9, 0.5, 0.5, **about("wanet", 0)).iloc[:0]
    return {name: pd.concat(parts or [empty], ignore_index=True).assign(data=data) for name, parts in found.items()}
