"""Fig. 8 and its companion: what they draw from planted tables, and from nothing."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.stats import ttest_1samp
from sklearn.metrics import roc_auc_score

from pipeline.figures import fig8, kis, save, scores, style
from tests import tiny
from tests.pages import check_texts
from tests.pairs import delong, equal_bins, share_within

N, WRONG = 400, 80
GAPS = {100: 0.5, 101: 0.2, 102: 0.3}  # by training seed, how much lower S is where the decision is wrong
SHARES = (0.1, 0.5, 0.9)
NETWORK = {
    "model": "resnet18_cifar",
    "model.width": 8,
    "weights": "trained",
    "data": "digits",
    "rule": "gbp",
    "explained": "decision",
}


def table(inputs, seed: int = 0, gap: float = 0.5, n: int = N, wrong: int = WRONG, **more) -> pd.DataFrame:
    """s_own has peaks at -.6 and .6, lower by `gap` where wrong; s_fixed has one peak and tells nothing; two are
    missing per input."""
    rng = np.random.default_rng(seed)
    margin, rows = rng.exponential(size=n) + 2 * (np.arange(n) >= wrong), []  # right decisions have larger ones
    for name in inputs:
        correct = np.arange(n) >= wrong
        s = np.where(rng.random(n) < 0.5, 0.6, -0.6) + 0.15 * rng.normal(size=n) - gap * ~correct
        images = {"image": [f"i{i}" for i in range(n)], "input": name, "correct": correct, "margin": margin}
        images |= {"decision": 1, "decision_star": np.where(s > 0, 1, 2), "probability_star": 1 / (1 + np.exp(-4 * s))}
        part = pd.DataFrame({**images, "s_own": s, "s_fixed": 0.2 * rng.normal(size=n), "missing": ""})
        gone = [5, n - 1 - len(name) % 5]  # an image that all inputs lack, and another for each
        part.loc[gone, ["s_own", "s_fixed", "missing"]] = [np.nan, np.nan, "constant map"]
        rows.append(part)
    return (
        pd.concat(rows, ignore_index=True)
        .astype({"correct": "boolean"})
        .assign(**{**NETWORK, "weights.training": "data=digits train.seed=100", **more})
    )


def training(seed: int) -> dict[str, str]:
    return {"weights.training": f"data=digits train.seed={seed}"}


def network(inputs, seed: int, gap: float) -> pd.DataFrame:
    """One of those that differ in their training seed; the first is main's."""
    return table(inputs, 0 if seed == 100 else seed, gap, **training(seed))


def removes(share: float, seed: int, **more) -> pd.DataFrame:
    """Insertions that tell the more, the more they remove."""
    return table(fig8.PANELS[1:], seed, share, **{"experiment.removed": share, **more})


def tables(name: str) -> dict[str, pd.DataFrame]:
    every = list(style.INPUT_LABELS)
    if name == "fig8":
        seeds = [network(every, s, gap) for s, gap in GAPS.items()]
        removed = [removes(share, 3) for share in SHARES]
        of_seeds = [removes(share, s, n=300, wrong=70).assign(**training(s)) for s in GAPS for share in SHARES]
        pretrained = {"model.width": np.nan, "weights.training": np.nan, "weights.enum": "DEFAULT"}
        imagenet = table(fig8.PANELS, 3, n=20, wrong=4, model="efficientnet_lite0", **pretrained)
        sweeps = {"seeds": seeds, "removed": removed, "seeds_removed": of_seeds}
        return {
            "main": table(every),
            **{name: pd.concat(parts) for name, parts in sweeps.items()},
            "imagenet": imagenet,
        }
    two = fig8.PANELS[1:]
    rules = ("grad", "gbp", "rectgrad", "lrp", "deconvnet", "lrp_epsilon", "lrp_alphabeta")
    rescaled = [table(fig8.PANELS[:1], 2, **{"experiment.rescale": how}) for how in ("percentile", "contrast")]
    return {
        "rules": pd.concat([table(fig8.PANELS, i, rule=rule) for i, rule in enumerate(rules)]),
        "label": table(fig8.PANELS, 1, gap=0.1),
        "element": table(two, 8),
        "black": table(two, 9),
        "rescale": pd.concat(rescaled),
        "removed": pd.concat([table(two, 3, share, **{"experiment.removed": share}) for share in (0.1, 0.5, 0.9)]),
    }


@cache
def drawn(module) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """A figure's tables and its numbers."""
    found = tables(module.__name__.rsplit(".", 1)[1])
    return found, module.numbers(found)


def test_fig8_numbers():
    drawn_from, numbers = drawn(fig8)
    main = numbers[numbers["panel"] == "main"]

    def found(name: str, measure: str, what: str) -> pd.DataFrame:
        return main[(main["input"] == name) & (main["measure"] == measure) & (main["what"] == what)]

    def at(what: str, measure: str = "s_own", name: str = "attribution") -> pd.Series:
        (row,) = [row for _, row in found(name, measure, what).iterrows()]
        return row

    for name in style.INPUT_LABELS:
        own = drawn_from["main"][drawn_from["main"]["input"] == name].dropna(subset="s_own")
        score, right, margin = own["s_own"].to_numpy(), own["correct"].to_numpy(bool), own["margin"].to_numpy()
        row = at("auroc", name=name)
        assert np.isclose(row["y"], roc_auc_score(right, score))
        np.testing.assert_allclose([row["low"], row["high"]], delong(score, right), atol=0.02)
        within = share_within(score, right, equal_bins(margin))
        assert np.isclose(at("auroc within margin", name=name)["y"], within) and row["n"] == N - 2
        assert abs(at("auroc", "s_fixed", name)["y"] - 0.5) < 0.12
        if name != "attribution":
            difference = at("first - this", name=name)
            both = (
                drawn_from["main"].pivot(index="image", columns="input", values="s_own")[["attribution", name]].dropna()
            )
            known = both.index.str[1:].astype(int) >= WRONG
            expected = roc_auc_score(known, both["attribution"]) - roc_auc_score(known, both[name])
            assert (
                np.isclose(difference["y"], expected)
                and difference["low"] < expected < difference["high"]
                and difference["n"] == len(both)
            )
    right, margin = (drawn_from["main"].drop_duplicates("image")[column].to_numpy() for column in ("correct", "margin"))
    assert np.isclose(at("auroc", "margin", "margin")["y"], roc_auc_score(right.astype(bool), margin))
    assert (
        abs(at("left peak")["x"] + 0.65) < 0.15
        and abs(at("right peak")["x"] - 0.58) < 0.1
        and at("V")["low"] > 0.5
        and at("dip p")["y"] < 0.01
    )
    assert at("V", "s_fixed")["y"] < 0.1 and at("dip p", "s_fixed")["y"] > 0.3
    for group, n in (("correct", N - WRONG - 1), ("incorrect", WRONG - 1)):
        curve = found("attribution", "s_own", group)
        assert (curve["n"] == n).all() and np.isclose(
            curve["y"].sum() * np.diff(curve["x"])[0], 1, atol=0.02
        )  # a density
    few = numbers[(numbers["panel"] == "imagenet") & (numbers["input"] == "attribution")]
    assert few["what"].value_counts().to_dict() == {"correct image": 14, "incorrect image": 4} and "auroc" not in set(
        few["what"]
    )
    text = fig8.caption(drawn_from, "demo")
    assert "80.00 % right" in text and "train.seed=102" in text and "Missing S: 20 (constant map) of 4,000" in text
    assert "train.seed=102 (80.00 % right); one of them is that of (a)." in text
    assert "400 images, 300 of each of the networks." in text
    apart = drawn_from | {"seeds": of_seed(drawn_from["seeds"], 102)}
    assert "one of them" not in fig8.caption(apart, "demo")


def auroc_of(part: pd.DataFrame) -> float:
    return float(roc_auc_score(part["correct"].to_numpy(bool), part["s_own"]))


def of_seed(part: pd.DataFrame, seed: int) -> pd.DataFrame:
    return part[part["weights.training"].str.endswith(str(seed))]


def t_of(values) -> list[float]:
    return [np.mean(values), *ttest_1samp(values, 0).confidence_interval(0.95)]


def test_fig8_means_over_training_seeds():
    drawn_from, numbers = drawn(fig8)
    single = style.where(numbers, panel="seeds", measure="s_own", input="edge")
    assert list(single["series"].unique()) == ["network 1", "network 2", "network 3"] and single["low"].isna().all()
    edge, both = [], []
    for part in (of_seed(drawn_from["seeds"], seed) for seed in GAPS):
        paired = part.pivot(index="image", columns="input", values="s_own")[["attribution", "edge"]].dropna()
        right = paired.index.str[1:].astype(int) >= WRONG
        edge.append(auroc_of(part[part["input"] == "edge"].dropna(subset="s_own")))
        both.append(roc_auc_score(right, paired["attribution"]) - roc_auc_score(right, paired["edge"]))
    for what, values in (("auroc", edge), ("first - this", both)):
        np.testing.assert_allclose(single.loc[single["what"] == what, "y"], values)
        (mean,) = style.where(numbers, panel="over seeds", measure="s_own", input="edge", what=what).to_dict("records")
        np.testing.assert_allclose([mean["y"], mean["low"], mean["high"]], t_of(values))
        assert mean["n"] == 3 and mean["series"] == "mean"
    means = numbers[numbers["panel"] == "over seeds"]
    assert (means["n"] == 3).all() and means["measure"].value_counts().to_dict() == {"s_own": 3 * 10 - 1, "s_fixed": 10}


def test_fig8_thresholds_are_paired_by_image():
    """Whatever the order of the rows, over the images where both S are there; of networks, each with its own."""
    drawn_from, numbers = drawn(fig8)
    cases = [("removed", "main", drawn_from["main"], drawn_from["removed"])]
    cases += [
        (
            "removed seeds",
            f"network {i}",
            of_seed(drawn_from["seeds"], seed),
            of_seed(drawn_from["seeds_removed"], seed),
        )
        for i, seed in enumerate(GAPS, start=1)
    ]
    for panel, series, first, other in cases:
        some = {"input": "insertion", "measure": "s_own"}
        found = style.where(numbers, panel=panel, series=series, **some)
        assert list(found["x"]) == list(SHARES) and (found["what"] == "first - this").all()
        a = first[first["input"] == "attribution"].set_index("image")
        for _, row in found.iterrows():
            b = style.where(other, input="insertion", **{"experiment.removed": row["x"]}).set_index("image")
            names = [name for name in b.index if pd.notna(a.at[name, "s_own"]) and pd.notna(b.at[name, "s_own"])]
            this = a.loc[names].assign(s_own=b.loc[names, "s_own"])
            assert np.isclose(row["y"], auroc_of(a.loc[names]) - auroc_of(this))
            assert row["n"] == len(names) == len(b) - (3 if series == "main" else 2)
            assert row["low"] < row["y"] < row["high"] if series == "main" else np.isnan(row["low"])
        mixed = fig8.thresholds(panel, series, *(part.sample(frac=1, random_state=0) for part in (first, other)), False)
        mixed = style.where(pd.DataFrame(mixed, columns=scores.COLUMNS), **some).sort_values("x")
        np.testing.assert_allclose(mixed["y"], found["y"])
    each = style.where(numbers, panel="removed seeds", **some, x=0.5)["y"]
    (mean,) = style.where(numbers, panel="removed over seeds", **some, x=0.5).to_dict("records")
    np.testing.assert_allclose([mean["y"], mean["low"], mean["high"]], t_of(each))
    assert mean["n"] == 3 and each.nunique() == 3


def test_fig8_of_one_network_has_no_interval_over_seeds():
    few = {name: part[part["input"].isin(fig8.PANELS[:2])] for name, part in tables("fig8").items()}
    one = few | {name: of_seed(few[name], 101) for name in ("seeds", "seeds_removed")}
    numbers = fig8.numbers(one)
    means = numbers[numbers["panel"].isin(["over seeds", "removed over seeds"])]
    assert len(means) and means["y"].notna().all()
    assert means[["low", "high"]].isna().all(axis=None) and (means["n"] == 1).all()
    style.close(fig8.draw(numbers, fig8.caption(one, "demo")))


def test_kis_numbers():
    drawn_from, numbers = drawn(kis)
    assert set(numbers.query("panel == 'b'")["series"]) == set(drawn_from["rules"]["rule"])
    assert list(numbers.query("panel == 'c'")["series"].unique()) == [
        "as in Fig. 8",
        "class: label",
        "map by contrast",
        "map by percentile",
        "scores by channel",
        "black for zero",
    ]
    by_share = numbers.query("panel == 'd' and measure == 's_own' and input == 'insertion'").set_index("x")["y"]
    assert (
        list(by_share.index) == [0.1, 0.5, 0.9]
        and by_share.is_monotonic_increasing
        and by_share[0.9] > by_share[0.1] + 0.1
    )
    v = numbers.query("panel == 'e' and what == 'V'").set_index("series")
    assert v.loc["all", "low"] > 0.4 and v.loc["stays", "y"] < 0.1 and v.loc["changes", "y"] < 0.1
    areas = numbers.query("panel == 'e' and what == 'density'").groupby("series")["y"].sum()
    assert np.isclose(areas["stays"] + areas["changes"], areas["all"], rtol=0.02)
    shares = numbers.query("panel == 'f'").groupby("series")["y"].sum()
    np.testing.assert_allclose(shares, 1)
    gain = numbers.query("panel == 'g' and measure == 's_own'").set_index("what")
    assert np.isclose(gain.loc["with", "y"] - gain.loc["without", "y"], gain.loc["gain", "y"])
    assert gain.loc["gain", "low"] < gain.loc["gain", "y"] < gain.loc["gain", "high"]
    one = drawn_from["label"][drawn_from["label"]["input"] == "insertion"].dropna(subset="s_own")
    shown = numbers.query("panel == 'c' and series == 'class: label' and input == 'insertion' and measure == 's_own'")[
        "y"
    ].item()
    assert np.isclose(shown, roc_auc_score(one["correct"].to_numpy(bool), one["s_own"]))


@pytest.mark.parametrize("module", [fig8, kis], ids=["fig8", "kis"])
def test_files_and_texts(module, tmp_path):
    name = module.__name__.rsplit(".", 1)[1]
    drawn_from, numbers = drawn(module)
    pdf = save(module, name, drawn_from, "demo", tmp_path)
    data = pdf.read_bytes()
    assert len(data) < 2 * 2**20 and b"/Type3" not in data
    pd.testing.assert_frame_equal(pd.read_csv(pdf.with_suffix(".csv")), numbers, check_dtype=False)
    figure = module.draw(numbers, module.caption(drawn_from, "demo"))
    check_texts(figure)
    assert abs(figure.get_size_inches()[0] - style.DOUBLE) < 0.01
    style.close(figure)


def test_all_right_or_all_equal_leaves_no_auroc():
    """Nor does a difference of a score from itself, where one of them is missing, differ from 0."""
    pair = pd.concat([table(["attribution"]), table(["attribution"]).assign(input="edge")], ignore_index=True)
    pair.loc[(pair["input"] == "edge") & (pair.index % 400 < 40), "s_own"] = np.nan  # half of the wrong ones
    rows = pd.DataFrame(scores.aurocs("main", "main", pair, "s_own", more=True), columns=scores.COLUMNS)
    assert (rows.loc[rows["what"] == "first - this", ["y", "low", "high"]] == 0).all().all()
    right = table(["attribution"], wrong=0)
    assert scores.aurocs("main", "main", right, "s_own") == []
    same = table(["attribution"]).assign(s_own=0.25)
    rows = pd.DataFrame(scores.distribution("main", "main", same, "s_own"), columns=scores.COLUMNS)
    assert set(rows["what"]) >= {"correct image", "incorrect image"} and rows.set_index("what").at["V", "y"] == 0
    one = table(["attribution"]).assign(s_own=lambda t: t["s_fixed"] - 0.6)
    found = pd.DataFrame(scores.distribution("main", "main", one, "s_own"), columns=scores.COLUMNS).set_index("what")
    assert abs(found.at["peak", "x"] + 0.6) < 0.1 and "left peak" not in found.index  # few values beyond 0 are no peak


@pytest.mark.parametrize("module", [fig8, kis], ids=["fig8", "kis"])
def test_ends_of_intervals_may_lie_on_the_wrong_side_by_rounding(module):
    """A score that orders all pairs right has AUROC 1 in every sample, and percentiles of 1 may end below it."""
    numbers = drawn(module)[1].copy()
    ends = numbers["what"] == "auroc"
    numbers.loc[ends, ["y", "low", "high"]] = [1.0, 1 + 2e-16, 1 - 1e-16]
    style.close(module.draw(numbers, "text"))


def test_kis_of_any_rules_and_inputs():
    """A rule of the user's own beside others, another rule for (c) and (d), other inputs."""
    found = tables("kis")
    own = {name: part.assign(rule="mine") for name, part in found.items()}
    own["rules"] = pd.concat([table(("attribution", "edge"), rule=rule) for rule in ("mine", "lrp")])
    numbers = kis.numbers(own)
    assert set(numbers.query("panel == 'b'")["input"]) == {"attribution", "edge"}
    figure = kis.draw(numbers, kis.caption(own, "demo"))
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == [style.RULES["lrp"].label, "mine", "attribution", "edge"]
    assert "From (c) on: mine" in kis.caption(own, "demo")
    check_texts(figure)
    style.close(figure)


def test_fig8_of_some_inputs():
    """What the network was not given leaves its panel empty."""
    some = {name: part[part["input"].isin(["insertion", "edge"])] for name, part in tables("fig8").items()}
    numbers = fig8.numbers(some)
    assert set(numbers.loc[numbers["panel"] == "main", "input"]) == {"insertion", "edge", "margin"}
    style.close(fig8.draw(numbers, fig8.caption(some, "demo")))


def test_fig8_from_nothing(run, tmp_path):
    """Trains its networks first, of the model and on the data that are asked for."""
    small = [
        "digits.training=1600",
        "digits.limit=20",
        "imagenet_samples.limit=2",
        "train.epochs=[1]",
        "train.batch_size=200",
        "train.sizes=[16]",
    ]
    ended = run(
        "figure=fig8",
        *tiny.OWN,
        "model.resize=32",
        "model.crop=32",
        "model.call=tests.test_fig8:small_network",
        "data=digits",
        *small,
    )
    assert ended.code == 0, ended.err
    trained = sorted((tmp_path / "outputs" / "results" / "train").glob("*/table.parquet"))
    assert len(trained) == 3 and set(pd.read_csv(ended.made[0])["panel"]) == {
        "main",
        "imagenet",
    }  # too few for an AUROC of the networks
    config = yaml.safe_load((trained[0].parent / "config.yaml").read_text())
    assert (
        config["model"]["call"] == "tests.test_fig8:small_network"
        and config["data"]["training"] == 1600
        and config["data"]["limit"] is None
    )
    assert set(pd.read_csv(ended.made[0]).query("panel == 'imagenet'")["series"]) == {
        "efficientnet_lite0"
    }  # keeps its network


def small_network():
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, 2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )
