"""Evidence of single claims on tables whose answer is planted: what is there holds, what is not does not."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm, t
from sklearn.metrics import roc_auc_score

from pipeline.claims import ENTRIES, readings
from pipeline.claims.evidence import at_least, at_most, auroc_of_networks, median, two_peaks
from pipeline.claims.theory import rank_correlations
from pipeline.claims.verdicts import FAILS, HOLDS, UNDECIDED, judge
from pipeline.measures.attacked import ATTACKS
from pipeline.measures.intervals import crossed_interval, crossed_table

RULES = ("gbp", "rectgrad", "lrp")
LEVEL = 0.99


def crossed(
    columns: Sequence[str], value: Callable[..., dict], levels: Sequence = (None,), seeds: int = 10, seed: int = 0
):
    """20 images x seeds x rules x levels; value(rng, rule, level, image, seed) -> columns."""
    rng = np.random.default_rng(seed)
    rows = [
        {"image": f"i{i}", "seed": s, "rule": rule, columns[0]: level, **value(rng, rule, level, i, s)}
        for i in range(20)
        for s in range(seeds)
        for rule in (*RULES, "activation")
        for level in levels
    ]
    return pd.DataFrame(rows)


def verdict(name: str, tables: dict) -> str:
    return judge(ENTRIES[name].parts(tables), LEVEL).word


def cascade(base: float, slope: float = 0.05, **more: float) -> pd.DataFrame:
    def value(rng, rule, n, i, s):
        alpha = base + slope * n + more.get(rule, 0.0) + 0.01 * rng.normal() + 0.02 * np.sin(i) + 0.01 * np.cos(s)
        return {"alignment": alpha, "alignment_chroma": alpha}

    return crossed(["n"], value, levels=range(6))


# ---- maps and cascades -----------------------------------------------------------------------------------------------


def test_a_rule_that_fails_at_the_input_does_not_rise():
    """W+ at layer 1, by which the alignment falls at the last level."""
    rises = cascade(0.1)
    falls = rises.assign(alignment=rises["alignment"].where((rises["n"] < 5) | (rises["rule"] != "lrp"), 0.0))
    assert verdict("rise", {"random": rises, "trained": rises}) == HOLDS
    assert verdict("rise", {"random": falls, "trained": rises}) == FAILS


def test_a_law_that_differs_is_not_alike():
    gaussian, ring, anisotropic = cascade(0.5), cascade(0.505), cascade(0.3)
    assert verdict("gauss~ring", {"gaussian": gaussian, "ring": ring}) == HOLDS
    assert verdict("gauss~ring", {"gaussian": gaussian, "ring": anisotropic}) == FAILS
    assert verdict("aniso", {"gaussian": gaussian, "anisotropic": anisotropic}) == HOLDS


def test_an_overflow_is_told_apart():
    gaussian = cascade(0.5)
    raw = gaussian.assign(alignment_naive=np.nan)
    tables = {"gaussian": gaussian, "ring": gaussian, "uniform_raw": raw}
    assert verdict("uniform-raw", tables) == HOLDS
    (reading,) = readings.of_claim("uniform-raw")
    assert verdict("uniform-raw", reading.change(tables)) == FAILS and reading.flips == "holds by overflow only"


@pytest.mark.parametrize("null, word", [(0.4, HOLDS), (0.6, FAILS)])
def test_null_maps(null, word):
    names = ("noise", "edges", "mean_colour", "mosaic", "other")
    rows = [
        {"image": f"i{i}", "seed": 0, "null": name, "alignment": (null if name == "mosaic" else 0.1) + 0.01 * np.sin(i)}
        for i in range(20)
        for name in names
    ]
    state = cascade(0.3)  # 0.55 at N = L
    assert verdict("above-null-trained", {"trained": state, "nulls": pd.DataFrame(rows)}) == word


def test_maps_of_shuffled_images_are_not_specific():
    def value(own):
        return lambda rng, rule, level, i, s: {
            "alignment": own + 0.05 * rng.normal(), "others": 0.05 * rng.normal(),
            "ahead": 1.0 if own else rng.random(), "rank": 1 if own else rng.integers(1, 20),
            "negative": own + 0.3, "negative_shuffled": 0.3 + 0.01 * rng.normal(),
        }  # fmt: skip

    right, wrong = (crossed(["level"], value(own)) for own in (0.5, 0.0))
    assert verdict("specific", {"specific_random": right, "specific_trained": right}) == HOLDS
    assert verdict("specific", {"specific_random": right, "specific_trained": wrong}) == FAILS
    assert verdict("neg-info", {"specific_trained": right[right["seed"] == 0]}) == HOLDS
    assert verdict("neg-info", {"specific_trained": wrong[wrong["seed"] == 0]}) == FAILS


def test_colour_that_is_lost_at_the_bottom():
    """kappa of act@L/3 and of the rule: all lost below, or all above."""
    for at_third, rule, word in ((0.2, 0.1, HOLDS), (0.95, 0.1, FAILS)):
        starts = crossed(["layer"], lambda *a, k=at_third: {"alignment_chroma": k}, levels=range(1, 6), seeds=1)
        starts = starts[starts["rule"] == "activation"]
        maps = crossed(["layer"], lambda rng, *a, k=rule: {"alignment_chroma": k + 0.01 * rng.normal()}, seeds=1)
        assert verdict("colour-bottom", {"trained_starts": starts, "trained_maps": maps}) == word


def starts(**columns: Callable[[np.random.Generator, int, int], float]) -> pd.DataFrame:
    """Maps from each of five layers of six; columns: (rng, layer, image) -> value."""
    table = crossed(
        ["layer"], lambda rng, _, layer, i, s: {k: f(rng, layer, i) for k, f in columns.items()}, range(1, 6), 1
    )
    return table[table["rule"] == "activation"].assign(label=1, decision=1, data="composites", objects=0.4)


def maps(background: float, seeds: int) -> pd.DataFrame:
    table = crossed(["layer"], lambda rng, *a: {"background": background + 0.01 * rng.normal()}, (6,), seeds)
    return table.assign(data="composites", objects=0.4)


@pytest.mark.parametrize("trained, word", [(0.6, HOLDS), (0.8, FAILS)])
def test_background_that_training_loses(trained, word):
    assert verdict("bg-loss", {"objects_random": maps(0.8, 10), "objects_trained": maps(trained, 1)}) == word


@pytest.mark.parametrize("halfway, word", [(0.9, HOLDS), (0.3, FAILS)])
def test_background_that_is_lost_in_the_top_half(halfway, word):
    """Of 1 at the input .2 is left: above layer 3 of 6, or below. Another layer's value would tell otherwise."""
    table = starts(background=lambda rng, layer, i: (1.0, 0.5, halfway, 1 - halfway, 0.2)[layer - 1])
    assert verdict("bg-top", {"objects_starts": table, "objects_trained": maps(0.2, 1)}) == word


def test_images_that_are_all_object_or_none_do_not_count():
    """Four of twenty, which say the opposite: of their rim or spot no share says much."""

    def odd(table: pd.DataFrame, background: float) -> pd.DataFrame:
        some = table["image"].isin([f"i{i}" for i in range(4)])
        share = table["image"].map({"i0": 0.0, "i1": 0.05, "i2": 0.95, "i3": 1.0}).fillna(0.4)
        return table.assign(objects=share, background=table["background"].where(~some, background))

    tables = {"objects_random": odd(maps(0.8, 10), 0.0), "objects_trained": odd(maps(0.6, 1), 9.0)}
    assert verdict("bg-loss", tables) == HOLDS
    (part, *_) = ENTRIES["bg-loss"].parts(tables)
    assert part.n == "16 images x 10 seeds, composites"


def activations(top: float, bottom: float) -> pd.DataFrame:
    """Four convolutions, of which two are a third, and a linear layer."""
    table = starts(
        background_activation=lambda rng, layer, i: (
            (bottom, bottom, top, top, np.nan)[layer - 1] + 0.02 * np.sin(i + layer)
        )
    )
    return table.assign(cells=table["layer"].map({1: 64, 2: 16, 3: 16, 4: 4, 5: 1}))


def test_background_that_high_layers_ignore():
    assert verdict("bg-inactive", {"objects_starts": activations(0.1, 0.4)}) == HOLDS
    assert verdict("bg-inactive", {"objects_starts": activations(0.4, 0.4)}) == FAILS
    coarse = activations(0.1, 0.4)
    some = coarse["image"].isin(["i0", "i1"])
    coarse.loc[some & (coarse["layer"] == 4), "background_activation"] = np.nan
    (part,) = ENTRIES["bg-inactive"].parts({"objects_starts": coarse})
    assert part.n.startswith("18 images") and judge([part], LEVEL).word == HOLDS
    coarse.loc[coarse["layer"] == 4, "background_activation"] = np.nan
    (part,) = ENTRIES["bg-inactive"].parts({"objects_starts": coarse})
    assert judge([part], LEVEL).word == UNDECIDED and "too coarse" in part.few


def test_background_that_fades():
    falls, flat = (starts(background=lambda rng, layer, i, k=k: 1 - k * layer + 0.01 * rng.normal()) for k in (0.1, 0))
    wrong = falls.assign(decision=2)
    assert verdict("fade-bg", {"objects_starts": wrong}) == HOLDS
    assert verdict("fade-bg", {"objects_starts": flat.assign(decision=2)}) == FAILS
    half = flat.assign(decision=np.where(flat["image"].isin([f"i{i}" for i in range(4)]), 2, 1))
    all_images, misclassified = ENTRIES["fade-bg"].parts({"objects_starts": half})
    assert all_images.n == "20 images, one network, composites" and misclassified.few == "4 images"
    assert judge([misclassified], LEVEL).word == UNDECIDED


def changes(share: float, images: int = 20, seeds: int = 10) -> pd.DataFrame:
    flat = np.arange(images * seeds) >= share * images * seeds
    return pd.DataFrame(
        {
            "image": [f"i{i}" for i in range(images) for _ in range(seeds)], "seed": [*range(seeds)] * images,
            "against": "original", "rule": "grad", "decision_changes": 1.0 - flat,
        }
    )  # fmt: skip


def test_a_share_of_all_has_an_interval():
    """Agresti and Coull's, from the definition; of few cells it decides nothing."""
    (part,) = ENTRIES["decision-changes"].parts({"top": changes(1.0)})
    middle = 202 / 204
    half = norm.ppf(0.975) * (middle * (1 - middle) / 204) ** 0.5
    assert np.allclose(part.interval(0.95), (middle - half, 1.0)) and part.estimate == 1
    assert verdict("decision-changes", {"top": changes(1.0)}) == HOLDS
    assert verdict("decision-changes", {"top": changes(1.0, images=16, seeds=1)}) == UNDECIDED
    low, high = ENTRIES["decision-changes"].parts({"top": changes(0.5)})[0].interval(0.95)
    plain = crossed_interval(crossed_table(changes(0.5), "decision_changes", by=()))
    assert high - low >= float(plain[2][0] - plain[1][0]) - 1e-9, "images differ, seeds do not"


def test_occlusion_counts_deletion_alone():
    def value(rng, rule, order, i, s):
        auc = {"attribution": 0.2, "random": 0.5, "edges": 0.3}[order] + 0.03 * rng.normal()
        return {"auc_normalised": auc, "units_off": 0.3 if order == "attribution" else 0.1, "direction": "deletion"}

    table = crossed(["order"], value, levels=("attribution", "random", "edges"), seeds=1)
    other = table.assign(direction="insertion", auc_normalised=0.0, units_off=0.0)
    tables = {"occlusion": pd.concat([table, other])}
    words = [verdict(name, tables) for name in ("occlude-random", "occlude-edge", "occlude-units")]
    assert words == [HOLDS, HOLDS, HOLDS]
    by_size = table.assign(order=table["order"].replace({"attribution": "magnitude"}))
    tables = {"occlusion": pd.concat([table.assign(auc_normalised=0.4), by_size[by_size["order"] == "magnitude"]])}
    reading = next(r for r in readings.of_claim("occlude-random") if r.name == "pixels by |R|")
    assert verdict("occlude-random", tables) == FAILS and verdict("occlude-random", reading.change(tables)) == HOLDS
    tables = {"occlusion": pd.concat([table, other])}
    swapped = tables["occlusion"].replace({"order": {"attribution": "random", "random": "attribution"}})
    assert [verdict(n, {"occlusion": swapped}) for n in ("occlude-random", "occlude-units")] == [FAILS, FAILS]


# ---- KIS -------------------------------------------------------------------------------------------------------------

INPUTS = {
    "attribution": 1.2, "insertion": 0.1, "insertion_magnitude": 0.5, "edge": 0.0, "noise": 0.0, "blur": 0.0,
    "filter": 1.2, "other": 0.0, "runner_up": 0.2, "random_network": 0.2,
}  # fmt: skip


def kis(n: int = 3000, seed: int = 1, margin_alone: bool = False, permuted: bool = False) -> pd.DataFrame:
    """S that tells right from wrong by so many standard deviations."""
    rng = np.random.default_rng(seed)
    right, margin = rng.random(n) < 0.6, rng.normal(size=n)
    right = (margin + rng.logistic(size=n)) > -0.5 if margin_alone else right
    rows = []
    for name, strength in INPUTS.items():
        s = margin if margin_alone else strength * right + rng.normal(size=n)
        if name == "filter":  # nearly the attribution's
            s = rows[0]["s_own"].to_numpy() + 0.5 + 0.1 * rng.normal(size=n)
        stays = s > 0
        told = rng.permutation(right) if permuted else right
        rows.append(pd.DataFrame({
            "image": [f"i{i:05d}" for i in range(n)], "seed": 0, "input": name, "correct": told,
            "s_own": s - 0.5, "margin": margin,
            "decision": 0, "decision_star": np.where(stays, 0, 1), "data": "cifar10",
        }))  # fmt: skip
    found = pd.concat(rows, ignore_index=True)
    if permuted:  # one truth for all inputs
        told = dict(zip(found["image"][:n], rng.permutation(right), strict=True))
        found["correct"] = found["image"].map(told)
    return found.astype({"correct": "boolean"})


AUROCS = ("kis-strong", "kis>magnitude", "magnitude>ins", "kis-own-map", "kis-beyond")


def test_s_that_tells_and_s_that_does_not():
    tells = {"kis": kis()}
    assert [verdict(name, tells) for name in (*AUROCS, "kis-acc", "filter-kis")] == [HOLDS] * 7
    assert verdict("ins-weak", tells) == HOLDS
    permuted = {"kis": kis(permuted=True)}
    assert {verdict(name, permuted) for name in AUROCS} <= {FAILS, UNDECIDED}
    assert verdict("kis-strong", permuted) == FAILS and verdict("kis-acc", permuted) != HOLDS


def test_s_that_is_the_margin_adds_nothing():
    assert verdict("kis-beyond", {"kis": kis(margin_alone=True)}) == FAILS


def test_the_accuracy_is_judged_on_cifar_alone():
    table = kis()
    assert verdict("clean-acc", {"kis": table}) == FAILS
    good = table.assign(correct=pd.array(np.arange(len(table)) % 3000 % 13 != 0, dtype="boolean"))
    assert verdict("clean-acc", {"kis": good}) == HOLDS  # 92.3 %
    assert verdict("clean-acc", {"kis": good.assign(data="digits")}) == UNDECIDED
    copied = good.assign(image="test/airplane/" + good["image"] + ".jpg")
    assert verdict("clean-acc", {"kis": copied}) == UNDECIDED
    assert verdict("clean-acc", {"kis": good.assign(image="test/" + good["image"])}) == HOLDS


def test_five_networks_are_judged_together_and_fewer_by_the_first():
    places = {"a": 0.0, "b": 0.1, "c": 0.2, "d": 0.3, "e": 0.4}
    networks = {name: kis().assign(**{"weights.path": name}) for name in places}
    for name, table in networks.items():  # worse and worse
        noise = np.random.default_rng(len(name)).normal(size=len(table))
        table["s_own"] = table["s_own"] * (1 - places[name]) + places[name] * 6 * noise
    each = [ENTRIES["kis-strong"].parts({"kis": table})[0] for table in networks.values()]
    (four,) = ENTRIES["kis-strong"].parts({"kis": pd.concat(list(networks.values())[:4])})
    assert (four.estimate, four.n) == (each[0].estimate, each[0].n)
    (five,) = ENTRIES["kis-strong"].parts({"kis": pd.concat(list(networks.values()))})
    found = np.array([part.estimate for part in each])
    assert five.estimate == pytest.approx(found.mean()) and five.n.startswith("5 networks")
    images = np.mean([np.subtract(*part.interval(0.9)[::-1]) / 2 for part in each])
    reach = (images**2 + (t.ppf(0.95, 4) * found.std(ddof=1)) ** 2 / 5) ** 0.5
    np.testing.assert_allclose(five.interval(0.9), [found.mean() - reach, found.mean() + reach])
    (reading,) = (r for r in readings.READINGS if r.name == "LRP in R~")
    lrp = networks["b"][networks["b"]["input"] == "attribution"]
    read = reading.change({"kis": pd.concat(list(networks.values())), "kis_lrp": lrp})["kis"]
    assert {*read["weights.path"]} == {"b"} and len(read) == len(networks["b"])


def test_missing_scores_count_as_missing():
    table = kis()
    table.loc[(table["input"] == "attribution") & (table.index % 10 == 0), "s_own"] = np.nan
    (part,) = ENTRIES["kis-beyond"].parts({"kis": table})
    assert part.missing == pytest.approx(0.1) and judge([part], LEVEL).word == UNDECIDED


def test_the_threshold_counts_the_range():
    rng = np.random.default_rng(4)
    n, right = 2000, np.arange(2000) % 2 == 0
    rows = [
        pd.DataFrame({
            "image": [f"i{i:05d}" for i in range(n)], "input": name, "correct": right, "experiment.removed": share,
            "s_own": rng.normal(size=n) + right * (share if name == "insertion" else 3 * share),
        })
        for name in ("insertion", "insertion_magnitude")
        for share in (0.1, 0.5, 0.9)
    ]  # fmt: skip
    table = pd.concat(rows)
    (part,) = ENTRIES["threshold"].parts({"kis_removed": table})
    assert part.name == "0.9 - 0.1 removed" and judge([part], LEVEL).word == HOLDS
    flat = table.assign(s_own=np.tile(rng.normal(size=n), len(table) // n))
    assert verdict("threshold", {"kis_removed": flat}) == FAILS


def test_peaks_and_medians():
    rng = np.random.default_rng(5)
    two = np.concatenate([rng.normal(-0.5, 0.1, 2000), rng.normal(0.6, 0.1, 2000)])
    assert judge([two_peaks("V", two, at_least(0.1))], LEVEL).word == HOLDS
    for one in (rng.normal(0, 0.3, 4000), rng.uniform(-1, 1, 4000)):
        assert judge([two_peaks("V", one, at_least(0.1))], LEVEL).word != HOLDS
    assert judge([two_peaks("V", rng.normal(0, 0.3, 4000), at_most(0.1))], LEVEL).word == HOLDS
    found = median("m", np.r_[two + 0.2, np.nan], at_least(0.0), less=two)
    assert found.estimate == pytest.approx(np.median(two + 0.2) - np.median(two)) and 0 < found.missing < 0.001
    exponential = rng.exponential(size=400)
    low, high = median("m", exponential, at_least(0.0)).interval(0.95)
    asymptotic = 1.96 / (2 * 400**0.5 * 0.5)  # 1 / (2 f sqrt(n)), f = 1/2 at the median
    assert (high - low) / 2 == pytest.approx(asymptotic, rel=0.25) and low < np.log(2) < high
    assert judge([median("m", exponential[:29], at_least(0.0))], LEVEL).word == UNDECIDED


# ---- backdoors -------------------------------------------------------------------------------------------------------


def attacked(s: dict[str, float], networks: int = 1, n: int = 1500) -> pd.DataFrame:
    """Triggered images with S around a place; the first network of each attack is the planted one."""
    rng, rows = np.random.default_rng(6), []
    for attack, place in s.items():
        for network in range(networks):
            values = (place if network == 0 else -place) + 0.1 * rng.normal(size=n)
            star = np.where(values > 0, 0, 3)
            about = {
                "image": [f"i{i}" for i in range(n)], "seed": 100, "rule": "gbp", "attack": "planted",
                "attack.name": attack, "weights.path": f"{attack}_{network}", "input": "attribution",
                "goal": 0, "label": np.arange(n) % 10,
                "decision": 0, "decision_star": star, "s_own": values, "s_fixed": values, "data": "cifar10",
                "probability_star": 1 / (1 + np.exp(-6 * values)),
            }  # fmt: skip
            rows.append(pd.DataFrame({**about, "sample": "triggered"}))
            clean = {**about, "sample": "clean", "decision": np.where(np.arange(n) % 14, about["label"], 11)}
            rows.append(pd.DataFrame(clean))
    return pd.concat(rows, ignore_index=True)


PLACES = {"badnet": 0.5, "dynamic": 0.4, "inputaware": -0.5, "wanet": -0.6}
SIDES = ("bd-right", "bd-left", "bd-consistent", "bd-alone", "bd-asr")


def test_sides_of_the_attacks():
    table = attacked(PLACES)
    tables = {"attacked": table, "again": table.assign(input="retriggered")}
    assert [verdict(name, tables) for name in SIDES] == [HOLDS] * 5
    digits = {sweep: given.assign(data="digits") for sweep, given in tables.items()}
    assert [verdict(name, digits) for name in SIDES] == [UNDECIDED] * 5
    turned = attacked({name: -place for name, place in PLACES.items()})
    tables = {"attacked": turned, "again": turned.assign(input="retriggered")}
    assert [verdict(name, tables) for name in ("bd-right", "bd-left", "bd-alone")] == [FAILS] * 3


def test_an_attack_without_a_network_decides_nothing():
    table = attacked({name: place for name, place in PLACES.items() if name != "inputaware"})
    tables = {"attacked": table, "again": table.assign(input="retriggered")}
    assert verdict("bd-right", tables) == HOLDS and verdict("bd-left", tables) == UNDECIDED
    assert judge(ENTRIES["bd-left"].parts(tables), LEVEL).why == "at this n: InputAware has no network"
    assert verdict("bd-split", tables) == UNDECIDED


def test_the_split_is_of_models():
    parts = ENTRIES["bd-split"].parts({"attacked": attacked(PLACES)})
    assert len(parts) == 8 and all("for these models" in part.name for part in parts)
    assert all(judge([part], LEVEL).word == HOLDS for part in parts if part.name.startswith("P,"))
    same = attacked(dict.fromkeys(PLACES, 0.3))
    assert verdict("bd-split", {"attacked": same}) == FAILS
    three = ENTRIES["bd-split"].parts({"attacked": attacked(PLACES, networks=3)})
    assert not any("for these models" in part.name for part in three)


def test_the_split_counts_an_image_once():
    """An image that scores high does so in every network."""
    rng, found = np.random.default_rng(12), {True: [], False: []}
    for _ in range(150):
        image = rng.normal(size=120)
        first, second = (image + shift + 0.6 * rng.normal(size=(3, 120)) for shift in (0.4, 0.0))
        for sampled in found:
            part = auroc_of_networks("", first, second, at_least(0.8), sampled=sampled)
            low, high = part.interval(0.95)
            found[sampled].append((part.estimate, (high - low) / 2 / 1.96))
    estimates, errors = np.array(found[False]).T
    assert errors.mean() == pytest.approx(estimates.std(ddof=1), rel=0.15)
    assert np.all(np.array(found[True])[:, 1] > errors)


def mean_auroc(first: np.ndarray, second: np.ndarray) -> float:
    """Over pairs of a network of each, slowly."""
    found = []
    for a in first:
        for b in second:
            up, down = a[~np.isnan(a)], b[~np.isnan(b)]
            found.append(roc_auc_score(np.repeat([1, 0], [len(up), len(down)]), np.concatenate([up, down])))
    return float(np.mean(found))


def test_the_split_is_the_mean_of_pairs_and_leaving_out_tells_its_error():
    rng = np.random.default_rng(13)
    first, second = rng.normal(0.5, 1, (2, 120)), rng.normal([[0.0], [0.3], [0.6]], 1, (3, 120))
    first[rng.random(first.shape) < 0.3] = np.nan  # does not count there
    part = auroc_of_networks("", first, second, at_least(0.8))
    assert part.estimate == pytest.approx(mean_auroc(first, second), abs=1e-12)
    without = [mean_auroc(np.delete(first, i, 1), np.delete(second, i, 1)) for i in range(120)]
    images = 119 / 120 * np.sum((np.array(without) - np.mean(without)) ** 2)
    low, high = part.interval(0.95)
    assert (high - low) / 2 == pytest.approx(t.ppf(0.975, 119) * images**0.5, rel=0.02)
    left_out = [
        [mean_auroc(np.delete(first, k, 0), second) for k in range(2)],
        [mean_auroc(first, np.delete(second, k, 0)) for k in range(3)],
    ]
    variances = [(len(v) - 1) / len(v) * np.sum((np.array(v) - np.mean(v)) ** 2) for v in left_out]
    total = images + sum(variances)
    freedom = total**2 / (images**2 / 119 + variances[0] ** 2 + variances[1] ** 2 / 2)
    low, high = auroc_of_networks("", first, second, at_least(0.8), sampled=True).interval(0.95)
    assert (high - low) / 2 == pytest.approx(t.ppf(0.975, freedom) * total**0.5, rel=0.02)


def test_an_attack_that_fails_is_named():
    table = attacked(PLACES)
    hit = (table["attack.name"] != "wanet") | (table["sample"] != "triggered") | (table["label"] % 2 == 0)
    failed = table.assign(decision=table["decision"].where(hit, table["label"]))
    wanet = ENTRIES["bd-consistent"].parts({"attacked": failed})[-1]
    assert wanet.name == "WaNet (success 44.4%: misses the gate)"
    assert [part.name for part in ENTRIES["bd-consistent"].parts({"attacked": table})] == list(ATTACKS.values())


def test_other_networks_are_a_reading():
    table = attacked(PLACES, networks=2)
    tables = {"attacked": table}
    (reading,) = (r for r in readings.of_claim("bd-right") if r.name == "the other networks")
    assert verdict("bd-right", tables) == HOLDS and verdict("bd-right", reading.change(tables)) == FAILS


def test_maps_that_light_up_the_trigger():
    rng, rows = np.random.default_rng(7), []
    for attack in PLACES:
        for rule in RULES:
            energy = np.nan if attack == "wanet" else 0.3
            rows.append(pd.DataFrame({
                "image": [f"i{i}" for i in range(40)], "rule": rule, "attack": "planted", "attack.name": attack,
                "map": "attribution", "weights.path": f"{attack}_0", "goal": 0, "label": 1,
                "energy": energy + 0.02 * rng.normal(size=40),
                "rank_correlation": 0.3 + 0.02 * rng.normal(size=40),
            }))  # fmt: skip
    lit = pd.concat(rows)
    path = {"attack.path": lit["weights.path"], "weights.path": "clean"}
    dark = lit.assign(energy=lit["energy"] - 0.2, rank_correlation=lit["rank_correlation"] - 0.2, **path)
    assert verdict("bd-highlight", {"highlight": lit, "highlight_clean": dark}) == HOLDS
    assert verdict("bd-highlight", {"highlight": lit, "highlight_clean": lit.assign(**path)}) == FAILS


# ---- theory ----------------------------------------------------------------------------------------------------------


def nfr(margin: float, relation: str, rule: str, gamma: str = "") -> pd.DataFrame:
    table = pd.DataFrame(
        {"rule": [rule] * 50, "gamma": gamma, "margin": 0.2, "relation": "greater", "image": "a", "seed": 0}
    )
    table.loc[7, ["margin", "relation"]] = [margin, relation]
    return table


@pytest.mark.parametrize("margin, relation, word", [(-0.1, "less", FAILS), (-1e-8, "equal", HOLDS), (-0.1, "", HOLDS)])
def test_one_counterexample_is_enough(margin, relation, word):
    good = nfr(0.2, "greater", "gbp")
    tables = {"nfr_random": good, "nfr_ring": nfr(margin, relation, "gbp"), "nfr_unbiased": good}
    assert verdict("prop1", tables) == word
    kept, dropped = (nfr(margin, relation, "lrp", gamma) for gamma in ("kept", "dropped"))
    plain = nfr(0.2, "greater", "lrp", "dropped")
    tables = {"nfr_random": pd.concat([kept, plain]), "nfr_ring": plain, "nfr_unbiased": plain}
    assert verdict("prop3", tables) == HOLDS, "with gamma it is an identity"
    assert verdict("prop3", {**tables, "nfr_ring": dropped}) == word


def test_theorem_1_is_as_bad_as_its_worst_draw():
    rows = [
        {"weights": law, "dim": 27, "neurons": 27000, "rule": "gbp", "draw": draw, "image": "a", "alignment": 0.995}
        for law in ("gaussian", "ring")
        for draw in range(20)
    ]
    table = pd.DataFrame(rows)
    z_plus = table.assign(rule="lrp", **{"rule.first_layer": "split"})
    assert verdict("thm1", {"theorem1": table, "theorem1_lrp": z_plus}) == HOLDS
    for name in ("theorem1", "theorem1_lrp"):
        tables = {"theorem1": table.copy(), "theorem1_lrp": z_plus.copy()}
        tables[name].loc[5, "alignment"] = 0.98
        assert verdict("thm1", tables) == FAILS


def theorem2(gap: Callable[[str, int], float]) -> pd.DataFrame:
    """alpha_b is alpha_a less gap(law, draws) where all A are equal, and clearly below it where not."""
    rows = [
        {
            "mixing": 0.0, "spread": 0.0, "rule": rule, "net": net, "units": "active", "equal": equal, "law": law,
            "draws": draws, "defined": True, "alpha_a": 0.9, "alpha_b": 0.9 * (1 - (gap(law, draws) if equal else 0.1)),
        }
        for rule in ("gbp", "rectgrad")
        for net in range(5)
        for equal in (True, False)
        for law in ("normal", "exponential", "constant")
        for draws in (1, 10, 100, 1000)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    return table.assign(equality=(table["alpha_a"] - table["alpha_b"]).abs() <= 1e-9)


def test_equality_of_theorem_2_is_told_law_by_law():
    """A constant law is equal at once, and says nothing of draws; a mean of normals tends to no direction."""
    table = theorem2(lambda law, m: {"exponential": 0.2 / m, "normal": 0.4, "constant": 0.0}[law])
    z_plus = table[table["rule"] == "gbp"].assign(rule="lrp", **{"rule.first_layer": "split"})
    parts = {part.name: part for part in ENTRIES["thm2-equal"].parts({"theorem2": table, "theorem2_lrp": z_plus})}
    for rule in ("gbp", "rectgrad", "z+ split"):
        slopes = [parts[f"slope over draws, all equal, {rule}, {law}"] for law in ("exponential", "normal")]
        assert slopes[0].estimate == pytest.approx(-1) and slopes[1].estimate == pytest.approx(0)
        assert [judge([part], LEVEL).word for part in slopes] == [HOLDS, FAILS]
        assert parts[f"equality per draw, all equal, {rule}"].estimate == 0
        assert judge([parts[f"equality per draw, not all equal, {rule}"]], LEVEL).word == HOLDS
    assert not any("constant" in name for name in parts)


def test_rank_correlations_over_shares():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(8)
    rows = [
        {"image": i, "seed": s, "layer": layer, "alignment_layer": rng.normal(), "alignment": rng.normal()}
        for i in "ab"
        for s in (0, 1)
        for layer in (1, 2, 3)
        for _ in range(11)
    ]
    table = pd.DataFrame(rows)
    found = rank_correlations(table).set_index(["image", "seed"])["rank"]
    for key, part in table.groupby(["image", "seed"]):
        slow = [spearmanr(p["alignment_layer"], p["alignment"]).statistic for _, p in part.groupby("layer")]
        assert found[key] == pytest.approx(np.mean(slow))


def test_the_numerator_does_not_carry_lrp():
    rng = np.random.default_rng(9)
    rows = [
        {"image": f"i{i}", "seed": 0, "rule": "lrp_gamma", "rule.gamma": gamma, "alignment": rise + 0.02 * rng.normal()}
        for i in range(20)
        for gamma, rise in ((0.0, 0.1), (np.inf, 0.5))
    ]
    table, margins = pd.DataFrame(rows), pd.DataFrame({"margin": 1e-12 * rng.normal(size=300)})
    assert verdict("numerator", {"gamma_unbiased": table, "gamma_margin": margins}) == HOLDS
    for bad in ({"gamma_margin": margins + 1e-3}, {"gamma_unbiased": table.assign(alignment=0.3)}):
        assert verdict("numerator", {"gamma_unbiased": table, "gamma_margin": margins, **bad}) == FAILS


def memory(cosine: Callable[[int], float]) -> pd.DataFrame:
    """Starts at each of 15 units of a network of 16 layers."""
    table = crossed(["layer"], lambda rng, rule, layer, i, s: {"cosine": cosine(layer)}, range(1, 16), seeds=1)
    table = table.assign(start="activation", name="layer " + table["layer"].astype(str))
    return pd.concat([table.assign(against=against) for against in ("noise", "other")])


def test_the_bottom_third_rounds_up():
    """Of 16 layers it is 6."""
    assert verdict("start-free", {"memory": memory(lambda layer: 0.99 if layer > 6 else 0.5)}) == HOLDS
    assert verdict("start-free", {"memory": memory(lambda layer: 0.99 if layer > 7 else 0.5)}) == FAILS


# ---- readings --------------------------------------------------------------------------------------------------------


def test_other_readings_take_the_place_of_what_they_are_about():
    main, other = cascade(0.1), cascade(0.6)
    lrp = other[other["rule"] == "lrp"].assign(rule="wplus")
    tables = {"random": main, "trained": main, "random_wplus": lrp, "trained_wplus": lrp}
    (reading,) = (r for r in readings.READINGS if r.name == "LRP without γ")
    read = reading.change(tables)["random"]
    assert len(read) == len(main) and {*read["rule"]} == {*main["rule"]}
    at = read.groupby("rule")["alignment"].mean() - main.groupby("rule")["alignment"].mean()
    assert at["lrp"] == pytest.approx(0.5, abs=0.01) and (at.drop("lrp") == 0).all()
    assert readings.applied(reading, {"random": main}, ("random",)) is None


def test_every_reading_is_of_claims_with_evidence():
    assert len({reading.name for reading in readings.READINGS}) == len(readings.READINGS)
    assert {name for reading in readings.READINGS for name in reading.claims} <= {*ENTRIES}
