"""Fig. 9 from planted tables."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from pipeline.figures import fig9, style
from tests.pages import check_texts

N, INPUTS = 120, ("attribution", "filter", "edge", "blur")
PLACES = {"badnet": 0.6, "dynamic": 0.5, "inputaware": -0.5, "wanet": -0.4}  # of the peak of triggered images


def table(attack: str, seed: int, at: float, clean: bool = False, success: float = 1.0) -> pd.DataFrame:
    """Labels go round; clean images are right in nine of ten; triggered ones go to the goal with the share `success`;
    R~ keeps three of four."""
    rng, rows = np.random.default_rng(1000 * seed + len(attack)), []
    label = np.arange(N) % 10
    for sample in ("clean", "triggered"):
        hit = rng.permutation(N) < round(success * N)
        decision = np.where(hit, 0, label) if sample == "triggered" and not clean else label.copy()
        if sample == "clean":
            decision[1::10] = 5
        for name in INPUTS:
            s = rng.normal(at if sample == "triggered" else 0.0, 0.1, N)
            star = np.where(np.arange(N) % 4 == 0, (decision + 1) % 10, decision)
            part = {
                "image": [f"i{i}" for i in range(N)],
                "sample": sample,
                "goal": 0,
                "input": name,
                "label": label,
                "decision": decision,
                "decision_star": star,
                "s_own": s,
                "s_fixed": s / 2,
                "probability_star": np.linspace(0, 1, N),
                "correct": label == decision,
                "missing": "",
            }
            rows.append(pd.DataFrame(part))
    found = pd.concat(rows, ignore_index=True)
    found.loc[0, ["s_own", "s_fixed", "missing"]] = [np.nan, np.nan, "constant map"]
    own, of_attack = (f"clean_{seed}", f"{attack}_{seed}") if clean else (f"{attack}_{seed}", None)
    about = {
        "attack": "planted",
        "attack.name": attack,
        "weights.path": own,
        "attack.path": of_attack,
        "rule": "gbp",
        "explained": "decision",
    }
    return found.assign(**about, model="resnet18_cifar", weights="checkpoint", data="cifar10", **{"model.width": 16.0})


@pytest.fixture(scope="module")
def tables() -> dict[str, pd.DataFrame]:
    """Two networks of each attack; the clean ones' tables are in another order."""
    attacked = [
        table(attack, seed, at, success=0.8 if (attack, seed) == ("wanet", 201) else 1.0)
        for attack, at in PLACES.items()
        for seed in (200, 201)
    ]
    clean = [table(attack, seed, 0.2 if seed == 200 else -0.8, clean=True) for seed in (201, 200) for attack in PLACES]
    return {"attacked": pd.concat(attacked), "clean": pd.concat(clean), "examples": pd.concat(attacked)}


def at(numbers: pd.DataFrame, what: str, **where) -> pd.Series:
    (row,) = [row for _, row in style.where(numbers, what=what, **where).iterrows()]
    return row


def test_numbers(tables):
    numbers = fig9.numbers(tables)
    for attack, place in PLACES.items():
        peak = at(numbers, "highest peak", panel="own", attack=attack, network=1, sample="triggered")
        assert abs(peak["y"] - place) < 0.06 and peak["low"] <= peak["y"] <= peak["high"] < peak["low"] + 0.2
        fixed = at(numbers, "highest peak", panel="fixed", attack=attack, network=1, sample="triggered")
        assert abs(fixed["y"] - place / 2) < 0.05
        for network, expected in ((1, 0.2), (2, -0.8)):  # that of the same triggers, whatever the order
            peak = at(
                numbers, "highest peak", panel="clean network", attack=attack, network=network, sample="triggered"
            )
            assert abs(peak["y"] - expected) < 0.06
        assert at(numbers, "kept", panel="own", attack=attack, network=1, sample="triggered")["y"] == 0.75
        median = at(numbers, "probability", panel="own", attack=attack, network=1, sample="triggered")["y"]
        assert np.isclose(median, 0.5)
        assert at(numbers, "accuracy", attack=attack, network=1)["y"] == 0.9
    part = style.where(tables["attacked"], sample="triggered", input="filter").dropna(subset="s_own")
    first = part["attack.name"].isin(["badnet", "dynamic"])
    row = at(numbers, "auroc", panel="table", input="filter", measure="s_own")
    assert np.isclose(row["y"], roc_auc_score(first, part["s_own"])) and row["low"] <= row["y"] <= row["high"]
    failed = style.where(tables["attacked"], **{"weights.path": "wanet_201"}, sample="triggered", input="edge")
    others = failed[failed["label"] != 0]
    assert at(numbers, "success", attack="wanet", network=2)["y"] == (others["decision"] == 0).mean() < 0.97
    assert at(numbers, "success on all", attack="wanet", network=2)["y"] == (failed["decision"] == 0).mean()
    dotted = style.where(numbers, panel="own", attack="badnet", sample="triggered, other classes", network=1)
    assert set(dotted["n"]) == {N - N // 10} and set(dotted["what"]) == {"density"}


def test_the_gate_hangs_on_success_and_on_what_the_attack_costs():
    fine = pd.Series({"success": 0.99, "accuracy": 0.85, "accuracy of the clean network": 0.86})
    assert fig9.gate("badnet", fine) == ""
    assert (
        fig9.gate("badnet", fine.replace(0.99, 0.98)) == "success"
        and fig9.gate("wanet", fine.replace(0.99, 0.98)) == ""
    )
    assert fig9.gate("wanet", fine.replace(0.86, 0.87)) == "accuracy"
    assert fig9.gate("wanet", fine.replace(0.86, np.nan)) == "accuracy"  # no clean network to tell by


def test_page(tables, tmp_path):
    style.use_style()
    numbers, text = fig9.numbers(tables), fig9.caption(tables, "laptop")
    assert "Fewer than three networks, so only of these models: BadNet, Dynamic" in text
    assert "8 (constant map)" in text and "decides nothing" not in text
    pictures = {k: torch.rand(3, 3, 32, 32) for k in ("clean", "triggered", "attribution")}
    maps = {"examples": [({"attack.name": attack}, {"pictures": pictures}) for attack in PLACES]}
    figure = fig9.draw(numbers, text, maps)
    check_texts(figure)
    said = [t.get_text() for t in figure.texts]
    assert "network 2 misses the gate" in said and said.count("") >= 3
    style.close(figure)
    one = {name: part[part["attack.name"] == "badnet"] for name, part in tables.items()}
    alone = fig9.draw(fig9.numbers(one), fig9.caption(one, "laptop"), maps)
    check_texts(alone)
    style.close(alone)


def test_cells_without_a_known_attack_are_refused():
    known = {"attack.name": "badnet", "rule": "gbp"}
    assert fig9.refuse({"attacked": [known]}) is None
    assert "attack.name is None" in fig9.refuse({"attacked": [known, {**known, "attack.name": None}]})
    assert "rule=activation" in fig9.refuse({"attacked": [{**known, "rule": "activation"}]})
