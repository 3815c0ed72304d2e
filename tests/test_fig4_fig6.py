"""Figures 4 and 6 from made-up tables, and from nothing on the tiny network."""

import numpy as np
import pandas as pd
import pytest
import safetensors.torch

from pipeline.figures import fig4, fig6, save, style
from tests import tiny
from tests.pages import check_texts

LAYERS = {1: "conv1_1", 2: "conv1_2", 3: "conv2_1", 4: "fc6"}
CELL = {"model": "net", "data": "images", "explained": "decision", "weights.path": "w"}
RULES = ("gbp", "rectgrad", "lrp")  # of Fig. 6
CASCADE = (*RULES, "activation")  # of Fig. 4
LEVELS = {"activation": range(4), "external": (4,)}
SEEDS, IMAGES = (0, 1, 2), ("i0", "i1", "i2", "i3")


def extremes(seed_with: str, rules=RULES) -> pd.DataFrame:
    """max falls to all from .1 above and min rises to it from .2 below, by image; min of RectGrad's layer 1 is missing
    for one image."""
    offsets = {"all": 0.0, "max": 0.1, "min": -0.2, "random": 0.01, "constant_max": 0.08, "constant_min": -0.18}
    rows = [
        {"image": image, "layer": layer, "name": name, "part": part, "share": 0.1, "rule": rule, "seed": 100,
         "weights": "checkpoint", **CELL, "sim_all": 1 - abs(offset) / layer,
         "alignment": np.nan if (rule, part, layer, i) == ("rectgrad", "min", 1, 0) else 0.3 + i / 100 + offset / layer}
        for rule in rules for i, image in enumerate(IMAGES) for layer, name in LAYERS.items()
        for part, offset in offsets.items() if seed_with == "activation" or not part.startswith("constant")
    ]  # fmt: skip
    return pd.DataFrame(rows)


def cascade(weights: str, offset: float, rules=CASCADE, **more: str) -> pd.DataFrame:
    rows = [
        {"image": image, "n": n, "name": f"conv{n}", "rule": rule, "seed": seed, "weights": weights, **CELL, **more,
         "alignment_naive": 0.0 if n > 2 else 0.1 * n, "alignment": 0.1 * n + 0.01 * i + 0.02 * seed + offset,
         "alignment_px": 0.5 + offset + 0.01 * i}
        for rule in rules for seed in SEEDS for i, image in enumerate(IMAGES) for n in LEVELS.get(rule, range(5))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def tables(name: str, rules=CASCADE) -> dict[str, pd.DataFrame]:
    if name == "fig6":
        below = [rule for rule in rules if rule not in ("activation", "external")]
        return {seed_with: extremes(seed_with, below) for seed_with in fig6.READINGS}
    laws = {
        "gaussian": 0.0,
        "ring": 0.01,
        "heavy_tailed": 0.0,
        "uniform": -0.02,
        "anisotropic": -0.2,
        "uniform01": -0.4,
    }
    return {
        "laws": pd.concat([cascade(law, offset, rules) for law, offset in laws.items()]),
        "literal": cascade("uniform", -0.02, rules),
        "overflow": cascade("uniform", 0.1, [rule for rule in rules if rule != "activation"], model="vgg16"),
    }  # fmt: skip


def test_fig6_numbers():
    numbers = fig6.numbers(tables("fig6"))
    of = lambda query: numbers.query(query).set_index("layer")["y"]  # noqa: E731
    middle = 0.315
    np.testing.assert_allclose(
        of("panel == 'alignment' and seed_with == 'activation' and rule == 'gbp' and part == 'max'"),
        middle + 0.1 / np.arange(1, 5),
    )
    for rule in RULES:  # a missing image leaves no mark on a gap that is paired
        np.testing.assert_allclose(
            of(f"panel == 'gap' and seed_with == 'relevance' and rule == '{rule}'"), 0.3 / np.arange(1, 5)
        )
    np.testing.assert_allclose(
        of("panel == 'similarity' and seed_with == 'activation' and rule == 'lrp' and part == 'min'"),
        1 - 0.2 / np.arange(1, 5),
    )
    np.testing.assert_allclose(of("part == 'original' and seed_with == 'activation' and rule == 'gbp'"), middle)
    spread = numbers.query("panel == 'gap' and rule == 'gbp'")
    assert np.allclose(spread["high"], spread["low"])  # the same in every image, though alignment is not
    assert "constant_max" not in set(numbers.query("seed_with == 'relevance'")["part"]) and list(
        numbers["name"].unique()
    ) == list(LAYERS.values())
    assert "Missing (no map): 2 of" in fig6.caption(tables("fig6"), "demo")


def test_fig4_numbers():
    numbers = fig4.numbers(tables("fig4"))
    differences = numbers[numbers["panel"] == "difference"].set_index(["rule", "law"])
    for rule in CASCADE:
        for law, expected in {"ring": 0.01, "uniform": -0.02, "uniform_literal": -0.02, "uniform01": -0.4}.items():
            row = differences.loc[(rule, law)]
            np.testing.assert_allclose(
                [row["y"], row["low"], row["high"]], expected, atol=1e-12
            )  # paired: no spread of images and seeds
    levels = {rule: np.arange(5 if rule != "activation" else 4) for rule in CASCADE}
    for rule, n in levels.items():
        naive = np.where(n > 2, 0, 0.1 * n).mean() - (0.1 * n + 0.015 + 0.02).mean()
        assert np.isclose(differences.loc[(rule, fig4.NAIVE), "y"], naive)
    curve = numbers.query("panel == 'alignment' and rule == 'gbp' and law == 'ring'").set_index("n")
    assert (
        np.allclose(curve["y"], 0.1 * curve.index + 0.015 + 0.02 + 0.01)
        and (curve["low"] < curve["y"]).all()
        and (curve["y"] < curve["high"]).all()
    )
    assert set(numbers[numbers["panel"] == "overflow"]["rule"]) == {"gbp", "rectgrad", "lrp"}
    px = numbers[numbers["panel"] == "px"].set_index("law")["y"]
    assert len(px) == 6 and np.isclose(px["uniform01"], 0.5 - 0.4 + 0.01 * (len(IMAGES) - 1) / 2)
    assert "within 0e+00 of" in fig4.caption(tables("fig4"), "demo")


@pytest.mark.parametrize("module", [fig4, fig6], ids=["fig4", "fig6"])
def test_files_and_texts(module, tmp_path):
    name = module.__name__.rsplit(".", 1)[1]
    pdf = save(module, name, tables(name), "demo", tmp_path)
    data = pdf.read_bytes()
    assert len(data) < 2 * 2**20 and b"/Type3" not in data
    kept = pd.read_csv(
        pdf.with_suffix(".csv"), keep_default_na=False, na_values=dict.fromkeys(("n", "y", "low", "high"), "")
    )
    pd.testing.assert_frame_equal(kept, module.numbers(tables(name)), check_dtype=False)
    figure = module.draw(module.numbers(tables(name)), module.caption(tables(name), "demo"))
    check_texts(figure)
    assert abs(figure.get_size_inches()[0] - style.DOUBLE) < 0.01
    style.close(figure)


def test_laws_and_parts_have_a_look_of_their_own():
    laws, rules = style.LAWS.values(), style.RULES.values()
    assert len({look.colour for look in laws}) == len({look.mark for look in laws}) == len(laws)
    assert not {look.mark for look in laws} & {look.mark for look in rules}
    assert all(look.colour and look.mark and look.label for look in (*laws, *rules, *style.PARTS.values()))


def test_fig6_from_nothing(run, tmp_path):
    safetensors.torch.save_file(tiny.network().state_dict(), tmp_path / "trained.safetensors")
    images = f"data.root={tiny.images(tmp_path / 'images', count=3)}"
    ended = run(
        "figure=fig6",
        *tiny.OWN,
        "data=folder",
        images,
        f"checkpoint.path={tmp_path / 'trained.safetensors'}",
        "extremes.share=0.25",
    )
    assert ended.code == 0, ended.err
    numbers = pd.read_csv(ended.made[0])
    assert (
        set(numbers["layer"]) == {1, 2}
        and set(numbers["rule"]) == set(RULES)
        and set(numbers["seed_with"]) == set(fig6.READINGS)
    )
