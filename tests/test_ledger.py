"""The claims' ledger: verdicts on planted data, and the whole of it from the tiny network."""

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
from sklearn.metrics import roc_auc_score

from pipeline.claims import ENTRIES, fixed_text, ledger, needed
from pipeline.claims.contrasts import mean_rank_correlation, minus, over_levels
from pipeline.claims.evidence import Part, Range, at_least, auroc, auroc_gain, exact, mean, share
from pipeline.claims.readings import READINGS
from pipeline.claims.verdicts import FAILS, HOLDS, UNDECIDED, decisions, judge
from pipeline.errors import UserError
from pipeline.figures import claims as figure
from tests import tiny
from tests.pairs import delong
from tests.test_planted import table


def part(rng, true: float, target: Range | None = None, **more) -> Part:
    return mean("part", table(rng, true, **more), "y", target or at_least(0.05))


def verdicts(true: float, times: int, target: Range | None = None, level: float = 0.95, **more) -> pd.Series:
    rng = np.random.default_rng(7)
    found = [judge([part(rng, true, target, **more)], level).word for _ in range(times)]
    return pd.Series(found).value_counts(normalize=True).reindex([HOLDS, FAILS, UNDECIDED], fill_value=0.0)


# ---- planted data ----------------------------------------------------------------------------------------------------


def test_what_is_there_holds_and_what_is_not_fails():
    assert verdicts(0.15, 100)[HOLDS] > 0.9 and verdicts(-0.1, 100)[FAILS] > 0.9
    assert verdicts(0.15, 100, seeds=7)[UNDECIDED] == 1 and verdicts(0.15, 100, images=15)[UNDECIDED] == 1
    one = judge([part(np.random.default_rng(0), 0.15, seeds=1)], 0.95)
    assert one.word == HOLDS, "one network: the interval is over images"


def test_smaller_than_claimed():
    rng = np.random.default_rng(1)
    found = judge([part(rng, 0.06, at_least(0.2), seeds=24, images=200, image_sd=0.01)], 0.9)
    assert found.word == FAILS and "smaller than claimed" in found.why
    reversed_ = judge([part(rng, -0.2, at_least(0.1))], 0.9)
    assert reversed_.word == FAILS and "smaller" not in reversed_.why


def test_all_parts_must_hold_and_one_outside_is_enough():
    rng = np.random.default_rng(3)
    good, bad, unsure = part(rng, 0.3), part(rng, -0.3), part(rng, 0.05)
    assert judge([good, good], 0.95).word == HOLDS and judge([good, unsure], 0.95).word == UNDECIDED
    found = judge([good, bad], 0.95)
    assert found.word == FAILS and found.why == "part"
    edge = Part("edge", 0.0, at_least(0.05), "", ends=lambda level: (-1.0, 0.04 if level < 0.97 else 0.06))
    assert judge([edge], 0.95).word == FAILS and judge([edge, good], 0.95).word == UNDECIDED, (
        "one of two is judged stricter"
    )
    assert judge([edge, Part("beside it", 0.0, Range(), "")], 0.95).word == FAILS, "what has no target does not count"


def test_what_is_missing_decides_nothing():
    rng = np.random.default_rng(4)
    for share_missing, word in ((0.04, HOLDS), (0.08, UNDECIDED)):
        given = table(rng, 0.3)
        given.loc[given.sample(frac=share_missing, random_state=0).index, "y"] = np.nan
        found = judge([mean("part", given, "y", at_least(0.05))], 0.95)
        assert found.word == word
    empty = mean("part", table(rng, 0.3).assign(y=np.nan), "y", at_least(0.05))
    assert judge([empty], 0.95).word == UNDECIDED and judge([], 0.95).word == UNDECIDED


def test_a_part_that_can_not_be_told_does_not_hide_one_that_fails():
    rng = np.random.default_rng(4)
    weak = mean("weak", table(rng, 0.3).head(3), "y", at_least(0.05))
    good, bad = (mean("part", table(rng, at), "y", at_least(0.05)) for at in (0.3, -0.3))
    assert weak.few
    for order in ([weak, bad, good], [bad, good, weak]):
        assert judge(order, 0.95).word == FAILS
    assert judge([weak, good], 0.95).word == judge([good, weak], 0.95).word == UNDECIDED
    assert weak.few in judge([good, weak], 0.95).why


def test_levels_that_are_missing_are_not_made_up_for_by_others():
    rows = [
        {"image": i, "seed": 0, "rule": "gbp", "layer": layer, "alignment": layer} for i in "ab" for layer in (1, 2, 9)
    ]
    full = pd.DataFrame(rows).astype({"alignment": float})
    holed = full.copy()
    holed.loc[2, "alignment"] = np.nan
    assert over_levels(full)["alignment"].tolist() == [4, 4]
    np.testing.assert_array_equal(over_levels(holed)["alignment"], [np.nan, 4])


def test_the_level_is_benjamini_and_hochbergs():
    """p-values by hand: with m = 4, .01, .02 and .03 are below .05 R / m for R = 3, .2 is not."""

    def with_p(p: float) -> list[Part]:
        return [Part("part", 1.0, at_least(0.0), "", ends=lambda level: (0.1 if level <= 1 - p else -0.1, 2.0))]

    parts = {str(p): with_p(p) for p in (0.01, 0.02, 0.03, 0.2)}
    found, level, strict = decisions(parts, [], 4)
    assert level == pytest.approx(1 - 0.05 * 3 / 4)
    assert [verdict.word for verdict in found.values()] == [HOLDS, HOLDS, HOLDS, UNDECIDED] and strict == {"0.01"}
    _, level, _ = decisions({"0.2": parts["0.2"]}, [], 4)
    assert level == pytest.approx(1 - 0.05 / 4)
    found, *_ = decisions({"a": [exact("part", 0.5, at_least(0.8), "")]}, ["a"], 4)
    assert found["a"].word == FAILS


# ---- numbers ---------------------------------------------------------------------------------------------------------


def test_auroc_has_delongs_interval():
    rng = np.random.default_rng(6)
    right = rng.random(400) < 0.7
    score, other = rng.normal(size=400) + right, rng.normal(size=400)
    score[:4] = np.nan
    there = ~np.isnan(score)
    found = auroc("auroc", score, right, at_least(0.7))
    assert found.estimate == pytest.approx(roc_auc_score(right[there], score[there]))
    np.testing.assert_allclose(found.interval(0.95), delong(score[there], right[there]), atol=1e-6)
    assert (
        found.missing == 0.01 and judge([auroc("few", score[:60], right[:60], at_least(0.7))], 0.95).word == UNDECIDED
    )
    gain = auroc_gain("gain", score, other, right, at_least(0.02))
    drawn = []
    for _ in range(400):
        rows = rng.integers(0, there.sum(), there.sum())
        a, b, r = (v[there][rows] for v in (score, other, right))
        drawn.append(roc_auc_score(r, a) - roc_auc_score(r, b))
    np.testing.assert_allclose(gain.interval(0.95), np.percentile(drawn, [2.5, 97.5]), atol=0.02)
    same = auroc_gain("same", score, 2 * score, right, at_least(0.02))
    assert same.estimate == 0 and same.interval(0.95) == (0, 0)


def test_a_share_is_agresti_and_coulls():
    found = share("share", np.arange(40) < 30, at_least(0.5))
    middle = 32 / 44
    half = 1.959964 * np.sqrt(middle * (1 - middle) / 44)
    np.testing.assert_allclose(found.interval(0.95), [middle - half, middle + half], rtol=1e-6)
    assert found.estimate == 0.75 and share("all", np.ones(20, bool), at_least(0.5)).interval(0.95)[1] == 1.0


def test_rank_correlations_are_scipys():
    from scipy.stats import spearmanr

    cells = np.random.default_rng(8).normal(size=(4, 3, 9)).round(1)
    slow = np.mean([spearmanr(cell, np.arange(9)).statistic for cell in cells.reshape(-1, 9)])
    assert mean_rank_correlation(cells)[0] == pytest.approx(slow)


def test_one_network_meets_every_seed():
    rng = np.random.default_rng(9)
    many, one = table(rng, 0.5), table(rng, 0.1, seeds=1).assign(seed=100)
    gap = minus(many, one, "y").set_index(["image", "seed"])["y"]
    back = minus(one, many, "y").set_index(["image", "seed"])["y"]
    assert len(gap) == 200 and {*gap.index.get_level_values(1)} == {*range(10)}
    pd.testing.assert_series_equal(gap.sort_index(), -back.sort_index())
    expected = many.set_index(["image", "seed"])["y"] - one.set_index("image")["y"].reindex(many["image"]).to_numpy()
    pd.testing.assert_series_equal(gap.sort_index(), expected.sort_index(), check_names=False)
    assert len(minus(one, one.assign(seed=0), "y")) == 20


# ---- the ledger ------------------------------------------------------------------------------------------------------


def test_every_entry_is_a_claim_and_its_sweeps_are_there(hydra_sweeps):
    claims = ledger()
    assert {*ENTRIES} == {*claims} and len(claims) == 93
    for name, entry in ENTRIES.items():
        assert {*entry.sweeps} <= {*hydra_sweeps}, name
    used = {sweep for entry in (*ENTRIES.values(), *READINGS) for sweep in entry.sweeps}
    assert {*hydra_sweeps} == used, "nothing is computed in vain"
    assert sorted({one.headline for one in claims.values() if one.headline}) == list(range(1, 11))
    assert "sha256" in fixed_text()


@pytest.fixture
def hydra_sweeps():
    import yaml

    from pipeline.files import CONF

    return yaml.safe_load((CONF / "figure" / "claims.yaml").read_text())["sweeps"]


def test_what_is_asked_for():
    assert needed(["act-rebuild"]) == {"random", "starts"}
    assert {"removed", "removed_middle", "thinned_conv"} <= needed(["removal-align"]), "other readings too"
    for names, words in ((["rize"], "did you mean rise"), ([], "chooses none")):
        with pytest.raises(UserError, match=words):
            needed(names)


def arguments(tmp_path) -> list[str]:
    file = tmp_path / "net.safetensors"
    safetensors.torch.save_file(tiny.network().state_dict(), file)
    folder = tiny.images(tmp_path / "images", count=4)
    labels = [f"image{i:03d}.png,{i % 3}" for i in range(4)]
    (folder / "labels.csv").write_text("\n".join(["file,class_index", *labels]))
    other = f"{{{', '.join(tiny.OWN).replace('=', ': ')}, data: folder, data.root: {folder}}}"
    return [
        "figure=claims", *tiny.OWN, "data=folder", f"data.root={folder}", "filter.size=3",
        f"profile.trained={{weights: checkpoint, weights.path: {file}}}", f"profile.base={file}",
        "~profile.kis.main", f"+profile.kis.main={other}", "~profile.pictures.trained",
        f"+profile.pictures.trained={other}", "profile.backdoors.attacked=[]", "profile.backdoors.clean=[]",
        "figure.sweeps.single={weights.depth: [1, 2, 3]}", "cifar10_composites.limit=4",
        "theorem1.draws=1", "theorem1.sides=[1]", "theorem2.nets=2", "theorem2.inputs=3",
        "profile.ledger_seeds=[0]", "profile.ledger_law_seeds=[0]",
    ]  # fmt: skip


def test_the_whole_ledger_of_a_tiny_network(run, tmp_path):
    given = arguments(tmp_path)
    ended = run(*given)
    assert ended.code == 0, ended.err
    found = pd.read_csv(ended.made[0])
    assert {*found["claim"]} == {*ledger()}
    there = found.dropna(subset="estimate")
    without_top = {"ext-top", "ext-original", "ext-control"}  # of three layers the top third is the output alone
    attacked = {name for name, one in ledger().items() if one.group == "Backdoors" or name == "bd-split"}
    few = {"kis-beyond", "clean-acc"}  # ten right and ten wrong ones, CIFAR-10
    assert {*there["claim"]} == {*ENTRIES} - without_top - attacked - few
    assert (
        there["low"].isna() | ((there["low"] <= there["estimate"] + 1e-9) & (there["estimate"] <= there["high"] + 1e-9))
    ).all()
    width, decided = there["high"] - there["low"], there["decision_high"] - there["decision_low"]
    assert (width.isna() | (decided >= width - 1e-9)).all()
    exact_ones = {name for name in ENTRIES if ledger()[name].exact}
    assert set(found["verdict"]) <= {HOLDS, FAILS, UNDECIDED, figure.OPEN, figure.DESCRIBED}
    assert {*found.loc[found["verdict"].isin([HOLDS, FAILS]), "claim"]} <= exact_ones, "too few images for the others"
    words = found.drop_duplicates("claim").set_index("claim")
    assert words["verdict"]["bd-asr"] == figure.OPEN and words["verdict"]["rise-steady"] == figure.DESCRIBED
    assert "lends it no networks" in words["why"]["bd-asr"]
    read = found[found["reading"].notna()].groupby("claim")["reading"].unique()
    assert "SSIM" in read["sim-trained"] and "layer 1 alone" in read["aniso"]
    assert "layers 2 to L" in read["aniso"]
    means = there[there["claim"] == "act-rebuild"].iloc[0]
    tables = [pd.read_parquet(p) for p in ended.made[-1].parents[1].glob("results/attribute/*/table.parquet")]
    firsts = [t.loc[(t["layer"] == 1) & t["name"].eq("0"), "alignment"].mean() for t in tables]
    assert np.isclose(means["estimate"], [first for first in firsts if not np.isnan(first)]).any()

    some = run(*given, "claims=[act-rebuild,zplus-input]")
    assert some.code == 0, some.err
    few = pd.read_csv(some.made[0]).dropna(subset="estimate")
    assert "not asked for" in {*pd.read_csv(some.made[0])["why"]}
    assert {*few["claim"]} == {"act-rebuild", "zplus-input"}
    keys = ["claim", "reading", "part"]
    both = few.merge(there, on=keys, how="left", suffixes=("", " of all"))
    np.testing.assert_allclose(both["estimate"], both["estimate of all"])
    assert "did you mean rise" in run(*given, "claims=[rize]").complaint
    assert "set figure=claims" in run("figure=fig2", "claims=[rise]").complaint
