import re

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import yaml
from PIL import Image

from pipeline.figures import fig2, save, style
from tests import tiny
from tests.pages import check_texts

RULES = ("gbp", "rectgrad", "lrp", "activation")
BANDS = {f"alignment_band{b}": np.nan if b == 0 else 0.1 * b for b in range(4)}


def cascade(weights: str, seeds, rules=RULES, first_layer="plain", images=3) -> pd.DataFrame:
    """alignment rises by .1 a layer, .01 an image and .02 a seed; activation ends at N = 3, external has N = L = 4."""
    levels = {"activation": range(4), "external": (4,)}
    cell = {"weights": weights, "weights.path": "w", "model": "net", "data": "images", "explained": "decision"}
    rows = [
        {"image": f"i{i}", "n": n, "name": f"conv{n}", "alignment": 0.1 * n + 0.01 * i + 0.02 * seed,
         "alignment_px": 0.3 + 0.01 * i, **BANDS,
         "rule": rule, "seed": seed, "rule.first_layer": first_layer, **cell}
        for rule in rules for seed in seeds for i in range(images) for n in levels.get(rule, range(5))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def fig2_tables(rules=RULES, ends=("lrp",)) -> dict[str, pd.DataFrame]:
    """Tables as the runner labels them, of a made-up network with L = 4."""
    rng = np.random.default_rng(0)

    def stats(seeds):
        columns = {"cosine_abs_mean": 0.08, "norm_std": 0.1}
        rows = [
            {"layer": k, "name": f"conv{k}", "seed": s, "cosine_mean": rng.normal(0, 0.01),
             "cosine_std": 0.1 + 0.01 * s, "norm_mean": 1.4 + 0.1 * s, **columns}
            for s in seeds for k in range(1, 5)
        ]  # fmt: skip
        return pd.DataFrame(rows)

    bands = {name: value * 0 + 0.3 for name, value in BANDS.items()}
    nulls = [
        {"image": f"i{i}", "null": null, "alignment": 0.2 + 0.1 * i, **bands} for null in fig2.NULLS for i in range(3)
    ]
    states = {"random": ("gaussian", (0, 1)), "trained": ("checkpoint", (0,))}
    firsts = {
        f"{state}_ends": pd.concat([cascade(*given, ends, first) for first in ("split", "plus")])
        for state, given in states.items()
    }
    return {
        **{state: cascade(*given, rules) for state, given in states.items()}, **firsts, "nulls": pd.DataFrame(nulls),
        "random_weights": stats((0, 1)), "trained_weights": stats((0,)),
        "random_balanced": stats((2, 3)), "trained_balanced": stats((1,)),
    }  # fmt: skip


@pytest.fixture(scope="module")
def tables() -> dict[str, pd.DataFrame]:
    return fig2_tables()


def test_numbers_are_means_over_images_and_seeds(tables):
    numbers = fig2.numbers(tables)
    gbp = numbers.query("panel == 'a' and state == 'random' and series == 'gbp'").set_index("x")
    assert (
        np.allclose(gbp["y"], 0.1 * gbp.index + 0.01 + 0.01)
        and (gbp["low"] <= gbp["y"]).all()
        and (gbp["y"] <= gbp["high"]).all()
    )
    assert len(numbers.query("panel == 'a' and series == 'activation' and state == 'random'")) == 4
    assert len(numbers.query("panel == 'a' and series == 'lrp split'")) == 2 and set(
        numbers.query("series == 'lrp plus'")["x"]
    ) == {4}
    assert np.isclose(numbers.query("panel == 'a' and series == 'mosaic'")["y"].item(), 0.3)
    assert np.isclose(numbers.query("series == 'P x, trained'")["y"].item(), 0.31)
    assert "a_band0" not in set(numbers["panel"]) and "a_band1" in set(numbers["panel"])
    c = numbers.query("panel == 'c' and state == 'random'").iloc[0]
    assert np.isclose(c["y"], 1.45) and np.isclose(c["high"] - c["y"], 0.1)
    balanced = numbers.query("panel == 'c_balanced' and state == 'random'").iloc[0]
    assert np.isclose(balanced["y"], 1.65)
    b = numbers.query("panel == 'b' and state == 'random'").iloc[0]
    assert np.isclose(b["high"] - b["y"], np.sqrt((0.1**2 + 0.11**2) / 2))


def test_files_of_a_figure(tables, tmp_path):
    pdf = save(fig2, "fig2", tables, "demo", tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fig2.csv", "fig2.pdf", "fig2.png", "fig2.svg"]
    data = pdf.read_bytes()
    assert len(data) < 2 * 2**20 and b"/Type3" not in data and b"/FontFile2" in data  # TrueType, embedded
    assert not re.search(rb"/Subtype\s*/Image", data)  # vectors only
    picture = matplotlib.image.imread(tmp_path / "fig2.png")
    assert abs(picture.shape[1] / 200 - style.DOUBLE) < 0.02
    kept, drawn = pd.read_csv(tmp_path / "fig2.csv").fillna({"name": ""}), fig2.numbers(tables)
    pd.testing.assert_frame_equal(kept, drawn, check_dtype=False)
    again = save(fig2, "fig2", tables, "demo", tmp_path / "again")
    assert again.read_bytes() == data
    for kind in ("png", "svg"):
        assert (tmp_path / "again" / f"fig2.{kind}").read_bytes() == (tmp_path / f"fig2.{kind}").read_bytes(), kind
    with Image.open(tmp_path / "fig2.png") as shown:
        assert shown.info["Description"] == fig2.caption(tables, "demo")


def test_texts_lie_inside_the_page_and_apart(tables):
    style.use_style()
    figure = fig2.draw(fig2.numbers(tables), fig2.caption(tables, "demo"))
    check_texts(figure)
    style.close(figure)


def test_norms_have_a_log_axis_where_one_layer_is_rescaled(tables):
    style.use_style()
    large = tables["trained_weights"].assign(norm_mean=lambda t: t["norm_mean"].where(t["layer"] != 1, 40))
    for given, scale in ((tables, "linear"), (tables | {"trained_weights": large}, "log")):
        figure = fig2.draw(fig2.numbers(given), "")
        (ax,) = [ax for ax in figure.axes if ax.get_title(loc="left").startswith("(c)")]
        assert ax.get_yscale() == scale
        style.close(figure)


def test_colours_differ_in_grey():
    """Rules keep apart without colour: by their mark, or by lightness."""
    marks = [style.RULES[r].mark for r in RULES]
    assert len(set(marks)) == len(marks)
    lines = {look.line for look in style.STATES.values()}
    assert len(lines) == len(style.STATES)


def test_a_figure_from_nothing_and_again_from_the_store(run, tmp_path):
    """Fig. 2 on the tiny network: computed, drawn, and drawn again without computing."""
    safetensors.torch.save_file(tiny.network().state_dict(), tmp_path / "trained.safetensors")
    args = [
        "figure=fig2",
        *tiny.OWN,
        "data=folder",
        f"data.root={tiny.images(tmp_path / 'images', count=3)}",
        f"checkpoint.path={tmp_path / 'trained.safetensors'}",
    ]
    ended = run(*args, "profile.seeds=[100,101]", "rectgrad.quantile=0.5")
    assert ended.code == 0, ended.err
    assert [path.name for path in ended.made] == ["fig2.csv", "fig2.png", "fig2.pdf"] and all(
        path.is_file() for path in ended.made
    )
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "outputs").glob("results/*/*/table.parquet")}
    numbers = pd.read_csv(ended.made[0])
    assert set(numbers.query("panel == 'a' and state == 'random' and series == 'gbp'")["x"]) == {0, 1, 2, 3}
    assert run(*args, "profile.seeds=[100,101]", "rectgrad.quantile=0.5").code == 0
    assert stamps == {
        path: path.stat().st_mtime_ns for path in (tmp_path / "outputs").glob("results/*/*/table.parquet")
    }
    configs = [
        yaml.safe_load(path.read_text()) for path in (tmp_path / "outputs").glob("results/cascade/*/config.yaml")
    ]
    assert {config["rule"].get("quantile", 0.5) for config in configs} == {0.5}


def test_a_caption_breaks_no_formula_apart():
    figure, formula = style.page(2.0), "$W_1 W_1^T x$"
    for shift in range(20):  # wherever the line ends
        style.caption(figure, "a " * (78 + shift) + formula)
        assert formula in figure.texts[-1].get_text() and "\n" in figure.texts[-1].get_text()
    style.close(figure)
