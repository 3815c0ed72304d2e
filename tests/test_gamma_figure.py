"""LRP-gamma's figure, from the tiny network."""

import numpy as np
import pandas as pd
import safetensors.torch

from tests import tiny


def test_numerators_are_one_where_there_are_no_biases(run, tmp_path):
    file = tmp_path / "net.safetensors"
    safetensors.torch.save_file(tiny.network().state_dict(), file)
    ended = run(
        "figure=gamma", *tiny.OWN, "data=folder", f"data.root={tiny.images(tmp_path / 'images', count=3)}",
        f"profile.trained={{weights: checkpoint, weights.path: {file}}}", f"profile.base={file}", "dtype=float64",
        "profile.depth_seeds=[0,1]", "gaussian.depth=2", "lrp_gamma.start_at=logit",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    numbers = pd.read_csv(ended.made[0])
    a = numbers[(numbers.panel == "a") & (numbers.x % 1 == 0)]
    assert set(a.x) == set(range(9)) and list(a.name.unique())[-1] == r"$\infty$"
    gain = a.pivot_table(index=["state", "x"], columns="series", values="y")
    np.testing.assert_allclose(gain.alignment, gain.numerator + gain.norm, atol=1e-9)
    assert (gain.loc[["random", "unbiased"]].numerator.abs() < 1e-9).all()
    assert gain.loc["trained"].numerator.abs().max() > 1e-3 and gain.loc["unbiased"].norm.abs().max() > 1e-3
    margin = numbers[(numbers.panel == "c") & (numbers.x % 1 == 0)].pivot(index="x", columns="state", values="y")
    assert (margin.unbiased.abs() < 1e-12).all() and (margin.trained.abs() > 1e-6).any()
    d = numbers[numbers.panel == "d"].groupby("series").y
    assert d.size().tolist() == [11, 11] and d.max().le(1 + 1e-9).all()
    tables = [pd.read_parquet(p) for p in ended.made[-1].parents[1].glob("results/attribute/*/table.parquet")]
    b = numbers[(numbers.panel == "b") & (numbers.state == "unbiased")]
    assert all(any(np.isclose(table.alignment.mean(), y) for table in tables) for y in b.y)
