"""The figure of the fixed filter, from the tiny network."""

import numpy as np
import pandas as pd
import safetensors.torch

from pipeline.figures.filter import memory_depth
from tests import tiny


def test_it_is_drawn_from_the_tables(run, tmp_path):
    file = tmp_path / "net.safetensors"
    safetensors.torch.save_file(tiny.network().state_dict(), file)
    law = (
        "experiment: filter, experiment.classes: false, experiment.original: true, target: original, "
        f"weights: gaussian, weights.base: {file}, seed: 0, rule: [gbp, rectgrad, lrp]"
    )
    ended = run(
        "figure=filter", *tiny.OWN, "data=folder", f"data.root={tiny.images(tmp_path / 'images')}", "filter.size=3",
        f"profile.trained={{weights: checkpoint, weights.path: {file}}}", f"profile.base={file}",
        "profile.seeds=[0,1]", f"figure.sweeps.above={{{law}, weights.depth: [2, 1]}}",
        f"figure.sweeps.single={{{law}, weights.part: single, weights.depth: [1, 2, 3]}}",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    made = ended.made
    assert made[-1].name == "filter.pdf"
    numbers = pd.read_csv(made[-1].with_suffix(".csv"))
    tables = {path: pd.read_parquet(path) for path in (made[-1].parents[1] / "results" / "filter").glob("*/*.parquet")}
    assert len(tables) == 3 + 2 * 3 + 2 * 3 + 3 * 3
    top = numbers[numbers.panel == "picture"]
    assert len(top) == 6 and set(top.rule) == {"gbp", "rectgrad", "lrp"} and top.cos_px.notna().all()
    trained = numbers[(numbers.panel == "b") & (numbers.state == "trained") & (numbers.rule == "lrp")]
    assert any(
        np.isclose(table.cos_px.mean(), trained[trained.series == "cos_px"].y.iloc[0]) for table in tables.values()
    )
    c = numbers[numbers.panel == "c"]
    assert sorted(c[c.series == "above"].x.unique()) == [1, 2] and sorted(c[c.series == "single"].x.unique()) == [
        1,
        2,
        3,
    ]
    above = c[(c.series == "above") & (c.x == 2)]  # the last layer alone, twice
    single = c[(c.series == "single") & (c.x == 3)]
    np.testing.assert_allclose(above.sort_values("rule").y, single.sort_values("rule").y)


def memory(**cosines):
    rows = [
        {"layer": layer, "start": start, "against": against, "cosine": value if against == "noise" else 1.0, "image": i}
        for start, values in cosines.items()
        for layer, value in enumerate(values, start=1)
        for against in ("noise", "other")
        for i in range(2)
    ]
    return pd.DataFrame(rows)


def test_memory_depth_is_the_lowest_layer_above_which_nothing_is_told():
    assert memory_depth(memory(activation=[0.2, 0.96, 0.97], own=[0.1, 0.95, 1.0])) == 2
    assert memory_depth(memory(activation=[0.99, 0.9, 0.97], own=[1.0, 1.0, 1.0])) == 3, "not the first that is alike"
    assert memory_depth(memory(activation=[1.0, 1.0, 1.0], own=[1.0, 1.0, 1.0])) == 1
    assert np.isnan(memory_depth(memory(activation=[1.0, 1.0, 0.9], own=[1.0, 1.0, 1.0]))), "the last one is told"
    assert memory_depth(memory(activation=[1.0, np.nan, 1.0], own=[1.0, 1.0, 1.0])) == 3, "a dead map is no match"
