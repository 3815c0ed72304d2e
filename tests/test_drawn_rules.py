"""Figures draw whatever rules their tables hold; what they can't draw, they refuse before any work."""

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

from pipeline.figures import FIGURES, captions, fig2, fig3, fig4, fig5, fig6, refusal, style
from tests import tiny
from tests.pages import check_texts
from tests.test_fig4_fig6 import tables as tables_of
from tests.test_figures import cascade, fig2_tables

CHOICES = {
    "deconvnet": ("deconvnet",),
    "grad": ("grad",),
    "external": ("external",),
    "more": ("gbp", "deconvnet", "rectgrad", "lrp", "activation", "external"),
    "two unknown": ("gbp", "mine", "yours"),
}
PROPAGATED = [choice for choice in CHOICES if choice != "external"]  # what starts from a layer
LABELS = {"gbp": "GBP", "deconvnet": "DeconvNet", "grad": "Gradient", "external": "external", "mine": "mine"}


def maps_of(tables: dict[str, pd.DataFrame]) -> dict[str, list]:
    """Maps (3, 8, 8) for the rows of each table, and x for each of its images."""
    torch.manual_seed(0)
    sizes = {sweep: (len(table), table["image"].nunique()) for sweep, table in tables.items() if "image" in table}
    return {
        sweep: [({}, {"maps": {"without_bottom": torch.randn(n, 3, 8, 8)}, "inputs": {"x": torch.randn(m, 3, 8, 8)}})]
        for sweep, (n, m) in sizes.items()
    }


def attributed(weights: str, rules, seeds=(100,), images=1, depths=(None,), **more) -> pd.DataFrame:
    facts = {"class_name": "owl", "label_name": "owl", "model": "net", "data": "images", "weights": weights, **more}
    values = {
        "alignment": 0.3,
        "alignment_chroma": 0.2,
        "alignment_px": 0.25,
        "similarity": 0.9,
        "alignment_registered": 0.4,
    }
    rows = [
        {"image": f"i{i}", "rule": rule, "seed": seed, "weights.depth": depth, **facts, **values}
        for depth in depths for seed in seeds for rule in rules for i in range(images)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    return table.assign(alignment=table["alignment"] + 0.01 * table["seed"] - 1 + 0.02 * np.arange(len(table)) % 0.1)


def fig5_tables(rules) -> dict[str, pd.DataFrame]:
    one, base = rules[:1], {"weights.base": "trained"}
    removed = {**base, "weights.inputs": 0.02}
    many = {"seeds": (100, 101), "images": 3, "depths": (0, 2, 4)}
    readings = [
        attributed("removal", rules, images=2, depths=(3,), **removed)
        .assign(**{"weights.kernel": kernel, "weights.keep_biases": kept})
        for kernel in ("first", "corner") for kept in (False, True)
    ]  # fmt: skip
    changed = ("removal", "thinned")
    return {
        "original": attributed("pretrained", one),
        "maps_drawn": attributed("gaussian", one, depths=(1, 2), **base),
        "maps": pd.concat([attributed(law, one, depths=(1, 2), **removed) for law in changed], ignore_index=True),
        "curves_drawn": attributed("gaussian", rules, **many, **base),
        "curves": pd.concat([attributed(law, rules, **many, **removed) for law in changed], ignore_index=True),
        "curves_middle": attributed("removal", rules, **many, **removed),
        "trained_below": pd.concat(readings, ignore_index=True),
        "kernels_below": readings[0].assign(**{"weights.kernel": "middle"}),
        "random_below": pd.concat(readings[::2], ignore_index=True),
    }


def fig3_tables(rules, alignment: float | None = None) -> dict[str, pd.DataFrame]:
    laws = ("gaussian", "ring", "uniform")
    points = [{"weights": law, "w0": w, "w1": -w, "seed": 100} for law in laws for w in (-1.0, 0.5, 1.0)]
    colour = pd.concat([cascade(law, (0, 1, 2), rules, images=5) for law in laws], ignore_index=True)
    colour = colour.assign(alignment=colour["alignment"] if alignment is None else alignment)
    return {
        "laws": pd.DataFrame(points),
        "maps": pd.concat([attributed(law, rules, images=2) for law in laws], ignore_index=True),
        "colour": colour.assign(alignment_chroma=colour["alignment"]),
    }


def drawn(module, tables, *maps):
    style.use_style()
    return module.draw(module.numbers(tables), module.caption(tables, "demo"), *maps)


def legend(figure) -> set[str]:
    legends = [*figure.legends, *(ax.get_legend() for ax in figure.axes if ax.get_legend())]
    return {text.get_text() for found in legends for text in found.get_texts()}


def check(figure, rules) -> None:
    """Every rule is named, and the page is readable."""
    names = {text.get_text() for ax in figure.axes for text in (ax.title, *ax.texts)} | legend(figure)
    titles = " ".join(names | {ax.get_title(loc="left") for ax in figure.axes})
    assert all(LABELS[rule] in titles for rule in rules if rule in LABELS), titles
    check_texts(figure)
    style.close(figure)


# ---- looks -----------------------------------------------------------------------------------------------------------


def test_known_rules_come_first_and_unknown_ones_differ():
    looks = style.looks(["mine", "lrp", "yours", "gbp", "mine"])
    assert list(looks) == ["gbp", "lrp", "mine", "yours"]
    assert looks["gbp"] is style.RULES["gbp"] and looks["mine"].label == "mine"
    strange = style.looks([f"rule{i}" for i in range(4)]).values()
    assert len({look.mark for look in strange}) == len({look.colour for look in strange}) == 4
    assert not {look.mark for look in strange} & {look.mark for look in (*style.RULES.values(), *style.LAWS.values())}
    shades = style.by_colour(style.looks(["gbp", "deconvnet", "lrp", "lrp_epsilon", "lrp_alphabeta"]))
    assert len({look.colour for look in shades.values()}) == 5 and shades["gbp"].colour.upper() == "#0072B2"


def test_error_bars_are_never_negative():
    """Means and percentiles of equal values differ by rounding, and matplotlib raises on a bar below 0."""
    points = pd.DataFrame(
        {"y": [0.3, 0.1, np.nan], "low": [0.3 + 1e-16, 0.0, np.nan], "high": [0.3 - 1e-16, 0.3, np.nan]}
    )
    np.testing.assert_array_equal(style.error_bars(points), [[0, 0.1, np.nan], [0, 0.3 - 0.1, np.nan]])


def test_captions_name_the_seed_of_drawn_weights_alone():
    drawn_ones = cascade("gaussian", (100, 101, 102))
    assert captions.state_text(drawn_ones) == "net, weights gaussian w seeds 100-102 (n = 3)"
    assert captions.state_text(cascade("ring", (100,))).endswith("ring w seed 100")
    for weights in ("trained", "pretrained", "checkpoint"):
        assert captions.state_text(cascade(weights, (100,))) == f"net, weights {weights} w"


# ---- any rule --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", CHOICES)
def test_fig2_draws_any_rule(choice):
    rules = CHOICES[choice]
    tables = fig2_tables(rules, ("lrp",) if "lrp" in rules else rules[:1])
    if "lrp" not in rules:  # a rule without that choice
        tables |= {sweep: tables[sweep].drop(columns="rule.first_layer") for sweep in ("random_ends", "trained_ends")}
    numbers = fig2.numbers(tables)
    assert set(rules) <= set(numbers["series"])
    figure = drawn(fig2, tables)
    if choice == "external":  # one point, at N = L: a mark
        marks = [line for line in figure.axes[0].lines if line.get_marker() == style.OTHERS[0][1]]
        assert [list(line.get_xdata()) for line in marks] == [[4.0], [4.0]]
    assert ("LRP is solid" in fig2.caption(tables, "demo")) == ("lrp" in rules)
    check(figure, rules)


@pytest.mark.parametrize("choice", CHOICES)
def test_fig4_draws_any_rule(choice):
    rules = CHOICES[choice]
    tables = tables_of("fig4", rules)
    assert set(fig4.numbers(tables)["rule"]) == {*rules, ""}  # P x has none
    check(drawn(fig4, tables), rules)


@pytest.mark.parametrize("choice", CHOICES)
def test_fig5_draws_any_rule(choice):
    rules = tuple(rule for rule in CHOICES[choice] if rule != "activation")
    tables = fig5_tables(rules)
    numbers = fig5.numbers(tables)
    assert set(numbers.loc[numbers["panel"] == "reading", "rule"]) == set(rules)
    assert f"Top: {style.rule_look(rules[0]).label} on net (trained)" in fig5.caption(tables, "demo")
    figure = drawn(fig5, tables, maps_of(tables))
    columns = [label.get_text() for label in figure.axes[-1].get_xticklabels()]
    assert columns == [look.label for look in style.looks(rules).values()]
    check(figure, rules)


def test_fig5_counts_a_dead_map_as_0():
    tables = fig5_tables(("gbp",))
    chosen = tables["curves"]["weights"].eq("removal") & tables["curves"]["weights.depth"].eq(4)
    first = tables["curves"][chosen].index[0]
    tables["curves"].loc[first, ["alignment", "alignment_registered"]] = np.nan
    kept = tables["curves"].loc[chosen, "alignment"].dropna()
    numbers = fig5.numbers(tables)
    row = numbers[(numbers["weights"] == "removal") & (numbers["depth"] == 4)].set_index("panel")
    assert np.isclose(row.loc["curve", "y"], kept.mean()) and np.isclose(
        row.loc["curve", "missing"], 1 / (len(kept) + 1)
    )
    assert np.isclose(row.loc["dead_0", "y"], kept.sum() / (len(kept) + 1))
    assert np.isclose(row.loc["registered", "y"], 0.4)
    figure = drawn(fig5, tables, maps_of(tables))
    assert any(line.get_linestyle() == ":" and line.get_marker() != "None" for line in figure.axes[-3].lines)
    style.close(figure)


@pytest.mark.parametrize("choice", PROPAGATED)
def test_fig6_draws_any_rule(choice):
    tables = tables_of("fig6", CHOICES[choice])
    rules = set(tables["activation"]["rule"])
    assert set(fig6.numbers(tables)["rule"]) == rules
    check(drawn(fig6, tables), rules)


@pytest.mark.parametrize("choice", CHOICES)
def test_fig3_draws_any_rule(choice):
    rules = tuple(rule for rule in CHOICES[choice] if rule != "activation")
    tables = fig3_tables(rules)
    figure = drawn(fig3, tables, maps_of(tables))
    assert len([ax for ax in figure.axes if ax.images]) == 2 + 3 * 2 * len(rules)
    check(figure, rules)


@pytest.mark.parametrize("arguments", [
    ["figure=fig2", "rule=deconvnet"], ["figure=fig2", "rule=grad"], ["figure=fig4", "rule=deconvnet"],
    ["figure=fig2", "rule=external", "rule.call=tests.tiny:mean_gradient"], ["figure=fig6", "rule=deconvnet"],
], ids=" ".join)  # fmt: skip
def test_a_rule_of_the_user(run, tmp_path, arguments):
    safetensors.torch.save_file(tiny.network().state_dict(), tmp_path / "trained.safetensors")
    images = tiny.images(tmp_path / "images", count=3)
    given = [f"data.root={images}", f"checkpoint.path={tmp_path / 'trained.safetensors'}", "extremes.share=0.25"]
    seeds = ["profile.seeds=[100,101]", "profile.law_seeds=[100,101]"]
    ended = run(*arguments, *tiny.OWN, "data=folder", *given, *seeds)
    assert ended.code == 0, ended.err
    numbers = pd.read_csv(ended.made[0])
    rule = arguments[1].removeprefix("rule=")
    assert rule in set(numbers["series" if "figure=fig2" in arguments else "rule"])


# ---- refused ---------------------------------------------------------------------------------------------------------


def test_cells_that_cannot_be_drawn():
    def cells(rule="gbp", **sweeps):
        return {sweep: [{"rule": rule, **cell} for cell in found] for sweep, found in sweeps.items()}

    laws, uniform = (
        [{"weights": law} for law in ("gaussian", "ring")],
        [{"weights": "uniform", "experiment.naive": True}],
    )
    assert refusal(fig4, cells(laws=laws, literal=uniform, overflow=uniform)) is None
    assert "leave weights=" in refusal(fig4, cells(laws=laws[1:], literal=uniform, overflow=uniform))
    assert "leave weights=" in refusal(fig4, cells(laws=laws, literal=laws[:1], overflow=uniform))
    safe = [{**uniform[0], "experiment.naive": False}]
    assert "experiment.naive" in refusal(fig4, cells(laws=laws, literal=safe, overflow=uniform))
    removed = [{"weights": "removal", "weights.depth": 2}]
    changed = dict.fromkeys(("maps_drawn", "maps", "curves_drawn", "curves", "curves_middle"), removed)
    assert refusal(fig5, cells(**changed)) is None and refusal(fig5, cells("external", **changed)) is None
    assert "rule=activation" in refusal(fig5, cells("activation", **changed))
    assert "leave weights=" in refusal(
        fig5, cells(**changed | {"maps": [{"weights": "gaussian", "weights.depth": None}]})
    )
    assert "rule=activation" in refusal(fig3, cells("activation", maps=laws, colour=laws, laws=laws))
    assert refusal(fig2, {}) is None and set(FIGURES) >= {"fig2", "fig3", "fig4", "fig5", "fig6", "theory"}
