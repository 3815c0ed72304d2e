"""Fig. 9 from planted tables."""

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.text import Text
from sklearn.metrics import roc_auc_score

from pipeline.figures import fig9, style
from tests.pages import check_texts

N, INPUTS = 120, ("attribution", "filter", "edge", "blur")
LOOK_ALIKES = {"inputaware": (0.8, 0.9), "wanet": (0.9, 0.85)}  # share of those classified right, by network
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


def look_alikes(table: pd.DataFrame, right: float) -> pd.DataFrame:
    """What the sweep `cross` has of an attacked network: the clean images, and others of which the share `right` is
    classified right, where the attack has such."""
    clean = style.where(table, sample="clean", input="attribution")
    wrong = np.arange(N) >= round(right * N)
    crossed = clean.assign(sample="cross", decision=np.where(wrong, (clean["label"] + 1) % 10, clean["label"]))
    return pd.concat([clean, crossed] if table["attack.name"].iloc[0] in LOOK_ALIKES else [clean])


@pytest.fixture(scope="module")
def tables() -> dict[str, pd.DataFrame]:
    """Two networks of each attack; the clean ones' tables are in another order."""
    attacked = [
        table(attack, seed, at, success=0.8 if (attack, seed) == ("wanet", 201) else 1.0)
        for attack, at in PLACES.items()
        for seed in (200, 201)
    ]
    clean = [table(attack, seed, 0.2 if seed == 200 else -0.8, clean=True) for seed in (201, 200) for attack in PLACES]
    cross = [
        look_alikes(one, LOOK_ALIKES.get(one["attack.name"].iloc[0], (0, 0))[one["weights.path"].iloc[0].endswith("1")])
        for one in reversed(attacked)
    ]
    found = {"attacked": attacked, "clean": clean, "cross": cross, "examples": attacked}
    return {sweep: pd.concat(several) for sweep, several in found.items()}


def examples() -> dict:
    pictures = {k: torch.rand(3, 3, 32, 32) for k in ("clean", "triggered", "attribution")}
    return {"examples": [({"attack.name": attack}, {"pictures": pictures}) for attack in PLACES]}


def at(numbers: pd.DataFrame, what: str, **where) -> pd.Series:
    (row,) = [row for _, row in style.where(numbers, what=what, **where).iterrows()]
    return row


@pytest.fixture(scope="module")
def numbers(tables) -> pd.DataFrame:
    return fig9.numbers(tables)


def test_numbers(tables, numbers):
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
    every = style.where(tables["attacked"], sample="triggered", input="filter").dropna(subset="s_own")
    for sample, part in (("triggered", every), ("triggered, other classes", every[every["label"] != every["goal"]])):
        first = part["attack.name"].isin(["badnet", "dynamic"])
        row = at(numbers, "auroc", panel="table", input="filter", measure="s_own", sample=sample)
        assert np.isclose(row["y"], roc_auc_score(first, part["s_own"])) and row["low"] <= row["y"] <= row["high"]
    failed = style.where(tables["attacked"], **{"weights.path": "wanet_201"}, sample="triggered", input="edge")
    others = failed[failed["label"] != 0]
    assert at(numbers, "success", attack="wanet", network=2)["y"] == (others["decision"] == 0).mean() < 0.97
    assert at(numbers, "success on all", attack="wanet", network=2)["y"] == (failed["decision"] == 0).mean()
    for attack in PLACES:
        shares = [at(numbers, "look-alikes", attack=attack, network=network)["y"] for network in (1, 2)]
        np.testing.assert_allclose(shares, LOOK_ALIKES.get(attack, (np.nan, np.nan)))
    dotted = style.where(numbers, panel="own", attack="badnet", sample="triggered, other classes", network=1)
    own = style.where(tables["attacked"], **{"weights.path": "badnet_200"}, sample="triggered", input="attribution")
    others = own[own["label"] != 0]
    assert set(dotted["n"]) <= {N - N // 10, (others["decision_star"] == others["decision"]).sum()}
    assert at(dotted, "kept")["y"] == (others["decision_star"] == others["decision"]).mean()


def test_the_gate_hangs_on_success_on_what_the_attack_costs_and_on_look_alikes():
    fine = {"success": 0.99, "accuracy": 0.85, "accuracy of the clean network": 0.86, "look-alikes": np.nan}

    def missed(attack: str, **changes: float) -> str:
        named = {key.replace("_", " ").replace("look alikes", "look-alikes"): value for key, value in changes.items()}
        return fig9.gate(attack, pd.Series(fine | named))

    assert missed("badnet") == "" and missed("badnet", success=0.98) == missed("dynamic", success=0.98) == "success"
    assert missed("badnet", accuracy_of_the_clean_network=0.87) == "accuracy"
    assert missed("badnet", accuracy_of_the_clean_network=np.nan) == "accuracy"  # none to tell by
    for attack, least in (("inputaware", 0.85), ("wanet", 0.83)):
        assert missed(attack, success=0.975, look_alikes=least + 0.001) == ""
        assert missed(attack, look_alikes=least - 0.001) == missed(attack) == "look-alikes"
        assert missed("badnet", look_alikes=0.5) == ""
    assert missed("wanet", success=0, accuracy=0, look_alikes=-1) == "success, accuracy, look-alikes"


def test_page(tables, numbers):
    style.use_style()
    text = fig9.caption(tables, "laptop")
    assert "Fewer than three networks, so only of these models: BadNet, Dynamic" in text
    assert "8 (constant map)" in text and "decides nothing" not in text
    figure = fig9.draw(numbers, text, examples())
    check_texts(figure)
    words = [t.get_text() for t in figure.findobj(Text)]
    assert {"0.800", "0.900", "0.850"} < set(words)
    assert words.count("look-alikes") == 2 and words.count("success, look-alikes") == 1, "the head and one that misses"
    said = [t.get_text() for t in figure.texts]
    assert {"network 1 misses the gate", "network 2 misses the gate"} <= set(said) and said.count("") >= 2
    style.close(figure)
    one = {name: part[part["attack.name"] == "badnet"] for name, part in tables.items()}
    alone = fig9.draw(fig9.numbers(one), fig9.caption(one, "laptop"), examples())
    check_texts(alone)
    style.close(alone)


def test_the_longest_numbers_of_three_networks_fit():
    style.use_style()
    three = {
        name: pd.concat(
            [table(a, seed, at, clean=name == "clean") for a, at in PLACES.items() for seed in (200, 201, 202)]
        )
        for name in ("attacked", "clean")
    }
    cross = [look_alikes(part, 0.9) for _, part in three["attacked"].groupby("weights.path", sort=False)]
    three |= {"cross": pd.concat(cross), "examples": three["attacked"]}
    numbers = fig9.numbers(three)
    assert numbers.loc[numbers["what"] == "dip p", "network"].max() == 3
    for what, longest in {"dip p": 0.0001, "highest peak": -0.222, "S where kept": -0.222, "kept": 0.777}.items():
        numbers.loc[numbers["what"] == what, "y"] = longest
    figure = fig9.draw(numbers, fig9.caption(three, "laptop"), examples())
    check_texts(figure)
    style.close(figure)


def test_cells_without_a_known_attack_are_refused():
    known = {"attack.name": "badnet", "rule": "gbp"}
    assert fig9.refuse({"attacked": [known]}) is None
    assert "attack.name is None" in fig9.refuse({"attacked": [known, {**known, "attack.name": None}]})
    assert "rule=activation" in fig9.refuse({"attacked": [{**known, "rule": "activation"}]})
