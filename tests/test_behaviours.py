"""The figure of the perplexing behaviours from made-up tables, and from nothing on the tiny network."""

import itertools

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import yaml
from scipy import stats

from pipeline.figures import behaviours, style
from tests import tiny
from tests.pages import check_texts

RULES = ("grad", "gbp", "rectgrad", "lrp")
IMAGES, SEEDS = [f"i{i}" for i in range(5)], (200, 201, 202)
CELL = {"model": "net", "data": "images", "explained": "original", "weights.path": "w", "weights.base": "w"}
AREAS = {"attribution": 0.3, "magnitude": 0.25, "bottom": 0.2, "random": 0.5, "edges": 0.38, "filter": 0.32,
         "filter_magnitude": 0.36, "filter_bottom": 0.28}  # fmt: skip
STEPS = 2


def likeness(against, seeds, weights="gaussian", depths=(None,)) -> pd.DataFrame:
    """Cosine falls by .05 a layer and rises by .01 an image, .02 a seed and .1 a rule; from two layers on the decisions
    of the first two images change, with the next seed of one more."""
    rows = [
        {"image": image, "against": name, "rule": rule, "seed": seed, "weights": weights, "weights.depth": depth,
         **CELL, "spearman": 0.2 + 0.1 * r, "ssim": 0.6 - 0.05 * (depth or 0),
         "cosine": 0.5 + 0.01 * i + 0.02 * (seed % 100) + 0.1 * r - 0.05 * (depth or 0) + 0.03 * (name == "filter"),
         "decision_changes": float((depth or 0) > 1 and i < 2 + seed % 100) if name == "original" else np.nan}
        for depth in depths for seed in seeds for r, rule in enumerate(RULES) for name in against
        for i, image in enumerate(IMAGES)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def area(order: str, r: int, i: int) -> float:
    """Of the r-th rule's (what no rule made is the same for all) and the i-th image; images are not alike."""
    r = r if order in behaviours.READINGS else 0
    return AREAS[order] + 0.02 * r + 0.01 * np.sin(7 * i + len(order) + r)


def occlusion() -> pd.DataFrame:
    """Each image's probability on x is .5 + .1 i, and falls in a line to that of its area; insertion rises."""
    rows = []
    for (r, rule), (i, image), order in itertools.product(enumerate(RULES), enumerate(IMAGES), AREAS):
        whole, value = 0.5 + 0.1 * i, area(order, r, i)
        fall = whole * np.linspace(1, 2 * value - 1, STEPS + 1)
        for direction, p in (("deletion", fall), ("insertion", fall[::-1])):
            rows.append(
                {"image": image, "order": order, "direction": direction, "rule": rule, "seed": 100, **CELL,
                 "weights": "pretrained", "experiment.fill": "mean", "experiment.units_share": 0.1,
                 "auc": whole * value, "auc_normalised": value,
                 "units_off": 0.1 + AREAS[order] if direction == "deletion" else np.nan,
                 **{f"p_{s}": p[s] for s in range(STEPS + 1)}}
            )  # fmt: skip
    return pd.DataFrame(rows).sample(frac=1, random_state=0)


def tables() -> dict[str, pd.DataFrame]:
    changed = ["original", "filter"]
    return {
        "random": likeness(behaviours.AGAINST, SEEDS),
        "trained": likeness(behaviours.AGAINST, (100,), "checkpoint"),
        "top": likeness(changed, SEEDS, depths=(0, 2, 4)),
        "bottom": likeness(changed, SEEDS, depths=(0, 2, 4)),
        "single": likeness(changed, SEEDS, depths=(1, 4)),
        "occlusion": occlusion(),
    }


@pytest.fixture(scope="module")
def numbers() -> pd.DataFrame:
    return behaviours.numbers(tables())


def test_numbers_of_likeness(numbers):
    a = numbers[numbers.panel == "a"].set_index(["state", "series", "rule", "name"])
    assert len(a) == 2 * 2 * 4 * 4
    assert np.isclose(a.loc[("random", "cosine", "gbp", "filter"), "y"], 0.5 + 0.02 + 0.02 + 0.1 + 0.03)
    assert np.isclose(a.loc[("trained", "cosine", "gbp", "edges"), "y"], 0.5 + 0.02 + 0.1)
    assert np.isclose(a.loc[("trained", "spearman", "lrp", "x"), "y"], 0.5)
    for part, depths in (("top", [0, 2, 4]), ("bottom", [0, 2, 4]), ("single", [1, 4])):
        of = lambda series, rule, part=part: numbers[  # noqa: E731
            (numbers.panel == f"b_{part}") & (numbers.series == series) & (numbers.rule == rule)
        ].set_index("x")["y"]
        depth = np.array(depths)
        np.testing.assert_allclose(of("cosine", "rectgrad").loc[depths], 0.5 + 0.02 + 0.02 + 0.2 - 0.05 * depth)
        np.testing.assert_allclose(of("ssim", "lrp").loc[depths], 0.6 - 0.05 * depth)
        np.testing.assert_allclose(of("px", "grad").loc[depths], 0.54 - 0.05 * depth + 0.03)
        np.testing.assert_allclose(of("changed", "").loc[depths], 0.6 * (depth > 1))
    starts = numbers[numbers.panel == "b_start"].set_index("rule")["y"]
    np.testing.assert_allclose(starts[list(RULES)], 0.57 + 0.1 * np.arange(4))


def interval(values) -> list[float]:
    return [np.mean(values), *stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))]


def order_of(reading: str, name: str) -> tuple[str, int]:
    """The order that a series shows, and the number of its rule."""
    if name in RULES:
        return reading, RULES.index(name)
    return behaviours.READINGS[reading][0] if name == "filter" else name, 0


def test_numbers_of_occlusion(numbers):
    c, areas, units = (numbers[numbers.panel == panel] for panel in ("c", "auc", "units"))
    series = [*RULES, *behaviours.ORDERS]
    assert len(areas) == 3 * 2 * len(series) == len(c) / (STEPS + 1) == 2 * len(units)
    for reading, direction, name in itertools.product(behaviours.READINGS, ("deletion", "insertion"), series):
        order, r = order_of(reading, name)
        values = [area(order, r, i) for i in range(5)]
        curve = style.where(c, state=reading, rule=name, series=direction).sort_values("x")
        fall = np.linspace(1, 2 * np.mean(values) - 1, STEPS + 1)
        np.testing.assert_allclose(curve.y, fall if direction == "deletion" else fall[::-1])
        (row,) = style.where(areas, state=reading, rule=name, series=direction).itertuples()
        np.testing.assert_allclose([row.y, row.low, row.high], interval(values))
        assert np.isclose(style.where(units, state=reading, rule=name).y, 0.1 + AREAS[order])


def paired(reading: str, rule: str, other: str) -> list[float]:
    (own, r), (order, _) = order_of(reading, rule), order_of(reading, other)
    return [area(order, 0, i) - area(own, r, i) for i in range(5)]


def test_gains_are_paired_by_image(numbers):
    gain = numbers.query("panel == 'gain'").set_index(["state", "rule", "name"])
    assert len(gain) == 3 * len(RULES) * 3
    for at in itertools.product(behaviours.READINGS, RULES, behaviours.ORDERS):
        np.testing.assert_allclose(gain.loc[at, ["y", "low", "high"]].astype(float), interval(paired(*at)))


def test_the_caption_says_what_so_many_images_can_tell():
    half = {}
    for other in behaviours.ORDERS:
        found = [interval(paired(reading, rule, other)) for reading in behaviours.READINGS for rule in RULES]
        half[other] = [high - mean for mean, _, high in found]
    text = behaviours.caption(tables(), "demo")
    said = ", ".join(f"±{min(half[k]):.2f} to {max(half[k]):.2f} ({behaviours.ORDERS[k].label})" for k in sorted(half))
    assert f"Paired by image they tell differences of areas to {said}; " in text
    for other, margin in behaviours.MARGINS.items():
        label = behaviours.ORDERS[other].label
        assert f"{margin:g} ({label}) takes up to {5 * (max(half[other]) / margin) ** 2:,.0f}" in text
    wide = tables()
    noisy = (wide["occlusion"]["order"] == "random") & (wide["occlusion"]["image"] == "i0")
    wide["occlusion"].loc[noisy, "auc_normalised"] += 1
    assert behaviours.caption(wide, "demo") != text, "from the numbers"


def test_readings_that_are_not_there_are_not_drawn():
    """Of the activation there is no bottom process, and a table may have fewer orders."""
    few = tables()
    of = few["occlusion"]["order"].isin(["attribution", "random"])
    few["occlusion"] = few["occlusion"][of]
    numbers = behaviours.numbers(few)
    assert set(numbers[numbers.panel == "gain"].name) == {"random"}
    assert set(numbers[(numbers.panel == "auc") & numbers.rule.isin(RULES)].state) == {"attribution"}
    assert "they tell" in behaviours.caption(few, "demo")


def test_maps_that_are_missing_are_counted_and_others_are_not_paired_with_them():
    some = tables()
    gone = (some["occlusion"]["rule"] == RULES[0]) & some["occlusion"]["order"].isin([*behaviours.READINGS])
    lost = gone & (some["occlusion"]["image"] != "i0")
    some["occlusion"].loc[lost, ["auc", "auc_normalised"]] = np.nan
    label = style.rule_look(RULES[0]).label
    assert f" (maps that are not there: 4 of {label})" in behaviours.caption(some, "demo")
    some["occlusion"].loc[gone, ["auc", "auc_normalised"]] = np.nan
    numbers = behaviours.numbers(some)
    assert set(numbers.loc[numbers.panel == "gain", "rule"]) == {*RULES[1:]}


def test_two_settings_of_a_rule_are_not_taken_for_one():
    twice = tables()
    twice["occlusion"] = pd.concat([twice["occlusion"], twice["occlusion"].assign(**{"experiment.fill": "blur"})])
    with pytest.raises(ValueError, match="two rows of image"):
        behaviours.numbers(twice)


def test_every_number_is_drawn_and_texts_lie_apart(numbers):
    style.use_style()
    figure = behaviours.draw(numbers, behaviours.caption(tables(), "demo"))
    check_texts(figure)
    assert abs(figure.get_size_inches()[0] - style.DOUBLE) < 0.01
    seen = np.concatenate([np.asarray(line.get_ydata(), float) for ax in figure.axes for line in ax.get_lines()])
    assert all(np.isclose(seen, y).any() for y in numbers.y)
    style.close(figure)


def test_it_refuses_weights_of_which_no_layers_are_named():
    cells = {sweep: [{"weights.depth": 1}] for sweep in ("top", "bottom", "single")}
    assert behaviours.refuse(cells) is None
    for part in cells:
        assert "leave weights=... out" in behaviours.refuse(cells | {part: [{"weights.depth": None}]})


@pytest.fixture
def from_nothing(run, tmp_path):
    file = tmp_path / "net.safetensors"
    safetensors.torch.save_file(tiny.network().state_dict(), file)
    ended = run(
        "figure=behaviours", *tiny.OWN, "data=folder", f"data.root={tiny.images(tmp_path / 'images', count=3)}",
        f"checkpoint.path={file}", f"pretrained.path={file}", f"profile.base={file}",
        "profile.seeds=[0]", "profile.depth_seeds=[0,1]", "profile.depths=[0,2]",
        "profile.single_layers=[1,3]", "occlusion.steps=4",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    return ended


def test_from_nothing(from_nothing):
    """Means of the tables that are in the store."""
    made = from_nothing.made
    assert [path.name for path in made] == ["behaviours.csv", "behaviours.png", "behaviours.pdf"]
    data = made[2].read_bytes()
    assert len(data) < 2 * 2**20 and b"/Type3" not in data
    numbers = pd.read_csv(made[0])
    found = []
    for path in made[-1].parents[1].glob("results/*/*/table.parquet"):
        config = yaml.safe_load((path.parent / "config.yaml").read_text())
        found.append((config, pd.read_parquet(path)))
    assert len(found) == 4 * (1 + 1 + (1 + 2) + (1 + 2) + 4 + 1), "without changed layers there is no seed"
    name = lambda group: group["choice"] if isinstance(group, dict) else group  # noqa: E731

    def tables(experiment, rule, **weights):
        return pd.concat(
            table
            for config, table in found
            if name(config["experiment"]) == experiment
            and name(config["rule"]) == rule
            and all(config["weights"].get(key) == value for key, value in weights.items())
        )

    for rule in RULES:
        for part, depth in (("top", 2), ("bottom", 2), ("single", 1)):
            rows = tables("likeness", rule, choice="gaussian", part=part, depth=depth)
            assert len(rows) == 2 * 3 * 2
            of = style.where(numbers, panel=f"b_{part}", x=depth)
            for series, against, column in (
                ("cosine", "original", "cosine"), ("spearman", "original", "spearman"), ("px", "filter", "cosine"),
            ):  # fmt: skip
                mean = rows.loc[rows.against == against, column].mean()
                assert np.isclose(style.where(of, series=series, rule=rule).y.item(), mean)
            changed = of.loc[of.series == "changed", "y"].item()
            assert np.isclose(changed, rows.loc[rows.against == "original", "decision_changes"].mean())
        rows = style.where(tables("occlusion", rule), order="magnitude", direction="insertion")
        curve = style.where(numbers, panel="c", state="magnitude", series="insertion", rule=rule).sort_values("x")
        assert list(curve.x) == [0, 0.25, 0.5, 0.75, 1]
        np.testing.assert_allclose(curve.y, [(rows[f"p_{i}"] / rows["p_4"]).mean() for i in range(5)])
    top = style.where(numbers, panel="b_top", series="cosine")
    np.testing.assert_allclose(top[top.x == 0].y, 1, rtol=1e-6)
    assert (style.where(numbers, panel="b_single", series="changed").x.tolist()) == [1, 3]
