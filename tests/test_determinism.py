"""The same configuration gives the same table, bit for bit; the batch size changes nothing beyond rounding."""

import numpy as np
import pandas as pd
import pytest
import torch

OVER_IMAGES = {
    "cascade": "rule=rectgrad",
    "attribute": "rule=lrp",
    "extremes": "rule=gbp",
    "failure": "failure.errors=false",
    "filter": "rule=lrp",
    "likeness": "rule=gbp",
    "memory": "rule=gbp",
    "midalign": "rule=rectgrad",
    "nfr": "rule=rectgrad",
    "noisy_start": "rule=gbp",
    "occlusion": "rule=lrp",
    "rank1": "rule=lrp",
    "specific": "rule=lrp",
    "nulls": "seed=1",
}


@pytest.mark.parametrize("experiment, argument", OVER_IMAGES.items())
def test_tables_over_images(cell, tmp_path, experiment, argument):
    """In float64: a rank in float32 (RectGrad's tau, the largest 10 %) may swap units that differ by rounding."""
    args = (
        f"experiment={experiment}",
        argument,
        "dtype=float64",
        *(["nfr.tolerance=1e-9"] if experiment == "nfr" else []),
    )
    first, again, whole = (
        pd.read_parquet(cell(*args, f"run.batch_size={size}", output=tmp_path / name).made[-1])
        for name, size in (("first", 2), ("again", 2), ("whole", 5))
    )  # fmt: skip
    pd.testing.assert_frame_equal(first, again, check_exact=True)
    keys = [c for c in first if not pd.api.types.is_float_dtype(first[c])]
    numbers = [c for c in first if c not in keys]
    by = [
        c
        for c in ("image", "n", "layer", "part", "start", "side", "other", "null", "order", "direction", "name")
        if c in first
    ]
    first, whole = (t.sort_values(by, kind="stable", ignore_index=True) for t in (first, whole))
    pd.testing.assert_frame_equal(first[keys], whole[keys])
    np.testing.assert_allclose(first[numbers], whole[numbers], rtol=0, atol=1e-5)


OF_RANDOM_NUMBERS = [
    ("experiment=theorem1", "theorem1.draws=2", "theorem1.neurons_per_dim=[1,10]", "theorem1.sides=[3]"),
    ("experiment=theorem2", "theorem2.nets=2", "theorem2.inputs=5"),
    ("experiment=geometry", "geometry.draws=50"),
    ("experiment=weight_stats", "weights=heavy_tailed"),
    ("experiment=directions", "weights=uniform"),
]


@pytest.mark.parametrize("args", OF_RANDOM_NUMBERS)
def test_tables_of_random_numbers(cell, tmp_path, args):
    tables = [pd.read_parquet(cell(*args, output=tmp_path / name).made[-1]) for name in ("first", "again")]
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def test_two_threads_give_the_same_bytes_again(cell, tmp_path):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        made = [cell("rule=lrp", output=tmp_path / name).made[-1] for name in ("first", "again")]
    finally:
        torch.set_num_threads(threads)
    assert made[0].read_bytes() == made[1].read_bytes()
