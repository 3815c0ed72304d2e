"""Controls of Fig. 9: what they draw from planted tables, and which cells they ask for."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from hydra import compose

from pipeline.attacks.badnet import BadNetAttack
from pipeline.attacks.inputaware import InputAwareAttack
from pipeline.attacks.wanet import WaNetAttack
from pipeline.figures import backdoor_tables, backdoors, save, scores, style
from pipeline.files import CHECKPOINTS
from pipeline.measures import attacked
from pipeline.run.drawn import facts
from tests.pages import check_texts
from tests.test_conf import cells_of, hydra  # noqa: F401

ATTACKS = {"badnet": 3, "dynamic": 1, "inputaware": 2, "wanet": 2}  # networks of each
RULES = ("grad", "gbp", "rectgrad", "lrp", "dtd", "activation")
N, GOAL = 200, 0
KEPT = {
    "minmax": 0.5,
    "percentile": 0.7,
    "contrast": 0.9,
    "attribution": 0.5,
    "retriggered": 0.8,
    "cross": 0.2,
    "clean": 1.0,
}
CLEAN = (0.1, 0.2, 0.3)  # of clean networks, by their number
DECIDES = {"triggered": 0.9, "transplanted": 0.6, "mean": 0.3}
ANYWAY = np.arange(N) // 10 % 5 == 4  # a fifth of each class goes to the goal without the trigger too


def about(attack: str, network: int, clean: bool = False) -> dict:
    own = f"{attack}_w16_{200 + network}_cifar10"
    of = {"weights.path": f"clean_w16_{200 + network}_cifar10", "attack.path": own} if clean else {"weights.path": own}
    rest = {"attack": "planted", "attack.name": attack, "attack.path": None, "attack.training": None, "rule": "gbp"}
    model = {"model": "resnet18_cifar", "model.width": 16, "weights": "checkpoint", "data": "cifar10"}
    return {**rest, **model, "explained": "decision", "experiment.rescale": "minmax", "experiment.percent": 1.0, **of}


def share_of(share: float) -> np.ndarray:
    """Every image of N in its place: the first ones of each class, as many as the share."""
    return (np.arange(N) // 10) < round(share * N / 10)


def part(sample: str, name: str, success: float, kept: float, s: float, seed: int = 0, **cell) -> pd.DataFrame:
    """Ten classes, N / 10 images each; of those of the goal class all numbers are others, and must not count."""
    rng, label = np.random.default_rng(seed), np.arange(N) % 10
    decision = np.where(share_of(success), GOAL, label)
    noise = 0.1 * rng.normal(size=N)
    s_own = s + noise - 0.5 * (decision != GOAL)
    images = {"image": [f"i{i}" for i in range(N)], "sample": sample, "input": name, "label": label, "goal": GOAL}
    found = pd.DataFrame(images).assign(
        decision=decision,
        decision_star=np.where(share_of(kept), decision, 9 - decision),
        decision_plain=np.where(ANYWAY, GOAL, label),
    )
    found = found.assign(s_own=s_own, s_fixed=s_own - 0.2, missing="", correct=decision == label, margin=1.0)
    found.loc[label == GOAL, ["s_own", "s_fixed", "decision_star"]] = [-2.0, -2.0, 7]
    return found.assign(**cell)


def lit(clean: bool, **cell) -> pd.DataFrame:
    """Energy of image i: i / 1000 and .3 for each network's number; .02 * number^2 + .05 * (place of the rule) more in
    attacked ones, and .02 in the filter's map."""
    network, attack, rows = int(cell["weights.path"].split("_")[2]) - 199, cell["attack.name"], []
    for rule in RULES:
        for name in ("attribution", "filter"):
            more = 0.02 if name == "filter" else 0.02 * network**2 + 0.05 * RULES.index(rule)
            value = 0.3 * network + np.arange(N) / 1000 + (0 if clean else more)
            images = {"image": [f"i{i}" for i in range(N)], "label": np.arange(N) % 10, "goal": GOAL, "map": name}
            everywhere = attack == "wanet"
            found = pd.DataFrame(images).assign(energy=np.nan if everywhere else value, rank_correlation=value)
            rows.append(found.assign(share=0.0 if everywhere else 0.0088, **{**cell, "rule": rule}))
    found = pd.concat(rows, ignore_index=True)
    return found.sample(frac=1, random_state=0) if clean else found  # pairs are found by name, not by place


def tables(attacks: dict[str, int] = ATTACKS, data: str = "cifar10", tuned: bool = True) -> dict[str, pd.DataFrame]:
    each = [(attack, i) for attack, n in attacks.items() for i in range(n)]

    def kis(
        sample: str, name: str, kept: str, only: Sequence[str] = tuple(attacks), clean: bool = False, **more
    ) -> list:
        return [
            part(
                sample,
                name,
                CLEAN[i] if clean else DECIDES.get(sample, 0.9),
                KEPT[kept],
                0.5,
                i,
                **about(a, i, clean) | more,
            )
            for a, i in each
            if a in only
        ]

    files = ["badnet1px", "badnet2px", "badnet", "badnet5px", *(["badnettuned"] if tuned else [])]
    variants = [
        part(
            "triggered",
            "attribution",
            0.9,
            0.5,
            0.1 * k,
            k,
            **about("badnet", 0) | {"weights.path": f"{file}_w16_200_cifar10"},
        )
        for k, file in enumerate(files)
    ]
    found = {
        "rescale": [
            t for how in backdoors.RESCALES for t in kis("triggered", "attribution", how, **{"experiment.rescale": how})
        ],
        "decides": [t for sample in DECIDES for t in kis(sample, "edge", "minmax")],
        "decides_clean": [t for sample in DECIDES for t in kis(sample, "edge", "minmax", clean=True)][::-1],
        "again": [t for name in ("attribution", "retriggered") for t in kis("triggered", name, name)],
        "cross": [t for s in ("clean", "cross") for t in kis(s, "attribution", s, ("inputaware", "wanet"))],
        "variants": variants,
        "highlight": [lit(False, **about(a, i)) for a, i in each],
        "highlight_clean": [lit(True, **about(a, i, True)) for a, i in each],
    }
    empty = part("cross", "attribution", 0.9, 0.5, 0.5, **about("wanet", 0)).iloc[:0]
    made = {name: pd.concat(parts or [empty], ignore_index=True).assign(data=data) for name, parts in found.items()}
    decides = made["decides"]  # the mean colour is the goal class for all networks of one attack
    decides.loc[(decides["attack.name"] == "dynamic") & (decides["sample"] == "mean"), "decision_plain"] = GOAL
    return made


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """The planted tables, and what the figure's csv says of them."""
    found = tables()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores, "DRAWS", 50)  # of V's intervals, which take the longest
        pdf = save(backdoors, "backdoors", found, "laptop", tmp_path_factory.mktemp("figures"))
    data = pdf.read_bytes()
    assert len(data) < 2 * 2**20 and b"/Type3" not in data
    return found, pd.read_csv(pdf.with_suffix(".csv"))


def at(numbers: pd.DataFrame, panel: str, series: str, given: str, measure: str, what: str) -> pd.Series:
    (row,) = [
        row
        for _, row in style.where(
            numbers, panel=panel, series=series, input=given, measure=measure, what=what
        ).iterrows()
    ]
    return row


def test_shares_and_medians_of_each_network_over_images_of_other_classes(made):
    drawn_from, numbers = made
    for attack, networks in ATTACKS.items():
        for how in backdoors.RESCALES:
            row = at(numbers, "a", attack, how, "kept", "mean")
            assert np.isclose(row["y"], KEPT[how]) and row["n"] == networks * N * 0.9
            table = drawn_from["rescale"].query("label != goal").loc[lambda t, how=how: t["experiment.rescale"] == how]
            medians = [
                table.loc[table["weights.path"] == about(attack, i)["weights.path"], "s_fixed"].median()
                for i in range(networks)
            ]
            each = [at(numbers, "a", attack, how, "s_fixed", f"network {i + 1}")["y"] for i in range(networks)]
            np.testing.assert_allclose(each, medians)
            assert np.isclose(at(numbers, "a", attack, how, "s_fixed", "mean")["y"], np.mean(medians))
        for sample, share in DECIDES.items():
            shown = style.where(numbers, panel="b", series=attack, input=sample, what="mean")
            assert (len(shown) == 0) == ((attack, sample) == ("dynamic", "mean")), "no mark where nothing is left"
            assert np.isclose(shown["y"], share_of(share)[~ANYWAY].mean()).all()
            assert (shown["n"] == networks * round(0.72 * N)).all()
        for given in ("attribution", "retriggered", *(("clean", "cross") if attack in ("inputaware", "wanet") else ())):
            assert np.isclose(at(numbers, "c", attack, given, "kept", "mean")["y"], KEPT[given])
    assert set(style.where(numbers, panel="c", series="badnet")["input"]) == {"attribution", "retriggered"}


def test_a_clean_network_has_the_number_of_the_one_whose_triggers_it_sees(made):
    """In whatever order the tables have them."""
    _, numbers = made
    for i in range(3):
        row = at(numbers, "b", "badnet", "mean", "success", f"clean network {i + 1}")
        assert np.isclose(row["y"], share_of(CLEAN[i])[~ANYWAY].mean()) and row["n"] == round(0.72 * N)


def test_a_missing_input_is_not_a_lost_decision():
    table = part("triggered", "attribution", 0.9, 0.5, 0.5).query("label != goal")
    gone = table.assign(decision_star=table["decision_star"].where(table["decision_star"] == table["decision"], -1))
    assert np.isclose(attacked.kept(table), 0.5) and attacked.kept(gone) == 1


def test_attacks_that_failed_stand_apart(made):
    drawn_from, numbers = made
    table = drawn_from["again"].query("label != goal and input == 'attribution' and `attack.name` == 'dynamic'")
    for name, part_of in (("succeeded", table["decision"] == GOAL), ("failed", table["decision"] != GOAL)):
        row, some = at(numbers, "d", "dynamic", name, "s_own", "median"), table[part_of]
        assert np.isclose(row["y"], some["s_own"].median()) and row["n"] == len(some)
        assert np.isnan(row["low"]) == (name == "failed")  # of 18 images
    assert row["y"] < 0.1


def test_intervals_of_a_median_are_over_images():
    """Against the bootstrap done by hand: three networks that agree on an image are one image, not three."""
    rng = np.random.default_rng(1)
    s, images = rng.normal(size=80), np.array([f"i{i}" for i in range(80)])
    values, names = np.concatenate([s, s + 0.01, s - 0.01]), np.tile(images, 3)
    low, high = backdoor_tables.median_interval(values, names)
    drawn = rng.integers(0, 80, (4000, 80))
    expected = np.percentile(np.median(s[drawn], axis=1), [2.5, 97.5])
    np.testing.assert_allclose([low, high], expected, atol=0.05)
    apart = backdoor_tables.median_interval(values, [f"{name} {i}" for i, name in enumerate(names)])
    assert apart[1] - apart[0] < 0.75 * (high - low)


def test_highlighting_is_paired_by_image_and_network(made):
    drawn_from, numbers = made
    for attack, networks in ATTACKS.items():
        measure, squares = "rank_correlation" if attack == "wanet" else "energy", np.arange(1, networks + 1) ** 2
        for i, rule in enumerate((*RULES, "filter")):
            row = at(numbers, "f", attack, rule, measure, "difference")
            more = 0.02 * squares + 0.05 * i if rule != "filter" else np.full(networks, 0.02)
            np.testing.assert_allclose([row["y"], row["low"], row["high"]], more.mean(), atol=1e-9)  # the same for all
            each = [
                at(numbers, "f", attack, rule, measure, f"difference network {k + 1}")["y"] for k in range(networks)
            ]
            np.testing.assert_allclose(each, more)
            alone = at(numbers, "f", attack, rule, measure, "difference network 1")
            assert row["n"] == alone["n"] == 0.9 * N  # the filter's rows come with each rule
        assert np.isclose(at(numbers, "f", attack, "any", measure, "chance")["y"], 0 if attack == "wanet" else 0.0088)
    absolute = at(numbers, "f", "badnet", "gbp", "energy", "attacked")
    table = drawn_from["highlight"].query("`attack.name` == 'badnet' and rule == 'gbp' and map == 'attribution'")
    images = table.query("label != goal").groupby("image")["energy"].mean()
    assert np.isclose(absolute["y"], images.mean())
    assert np.isclose(absolute["high"] - absolute["y"], 1.96 * images.std() / len(images) ** 0.5)


@pytest.mark.parametrize(
    "network, name",
    [
        ("badnet1px_w16_200_cifar10", "1 px"),
        ("badnet_w16_200_cifar10", "3 px"),
        ("badnettuned_w16_200_cifar10", "fine-tuned"),
        ("data=digits attack=badnet badnet.patch=5 train.seed=200", "5 px"),
        ("data=digits attack=badnet badnet.patch=3 train.start=model.safetensors", "fine-tuned"),
        ("/models/mine.safetensors", "mine"),
    ],
)
def test_variants_by_their_words(network, name):
    assert backdoor_tables.variant(network) == name


def test_variants_of_badnet(made):
    _, numbers = made
    shown = numbers[numbers["panel"] == "e"]
    assert list(shown["series"].unique()) == ["1 px", "2 px", "3 px", "5 px", "fine-tuned"]
    for k, name in enumerate(shown["series"].unique()):
        curve = style.where(shown, series=name, what="density")
        assert np.isclose(curve["y"].sum() * np.diff(curve["x"])[0], 1, atol=0.03)
        assert abs(curve.loc[curve["y"].idxmax(), "x"] - 0.1 * k) < 0.05
        assert np.isclose(at(numbers, "e", name, "attribution", "success", "mean")["y"], 0.9)


def test_texts_and_caption(made):
    drawn_from, numbers = made
    text = backdoors.caption(drawn_from, "laptop")
    assert "3 BadNet, 1 Dynamic, 2 InputAware, 2 WaNet" in text and "180 triggered images of cifar10 for each" in text
    assert "for these models" in text and "decides nothing" not in text and "a clean network trained on, " not in text
    figure = backdoors.draw(numbers, text)
    check_texts(figure)
    assert abs(figure.get_size_inches()[0] - style.DOUBLE) < 0.01
    style.close(figure)


def test_an_attack_of_the_users_own_and_few_images():
    """One network of one attack, without others; 18 images make no density and no interval."""
    found = {
        name: table[table["image"].isin([f"i{i}" for i in range(20)])] for name, table in tables({"badnet": 3}).items()
    }
    found = {
        name: table.replace({"attack.name": {"badnet": "mine"}}).assign(data="digits") for name, table in found.items()
    }
    numbers = backdoors.numbers(found)
    assert set(numbers.loc[numbers["panel"] != "e", "series"]) == {"mine"} and "density" not in set(numbers["what"])
    assert numbers["low"].isna().all()
    text = backdoors.caption(found, "laptop")
    assert "3 mine (" in text and "decides nothing" in text and "for these models" not in text
    figure = backdoors.draw(numbers, text)
    check_texts(figure)
    style.close(figure)


@pytest.mark.parametrize("profile", ["demo", "paper"])
def test_its_cells(hydra, profile):  # noqa: F811
    """Every attacked network has clean ones beside it."""
    sweeps = cells_of("backdoors", profile, "rule=gbp")  # one rule for six, to be quick
    rows = {name: pd.DataFrame([facts(cell) for cell in cells]) for name, cells in sweeps.items()}
    for own, clean in (("decides", "decides_clean"), ("highlight", "highlight_clean")):
        keys = [
            set(zip(attacked.whose(t), t["attack.name"], t["rule"], strict=True)) for t in map(rows.get, (own, clean))
        ]
        assert keys[0] == keys[1] and len(keys[0]) == len(rows[clean])
    assert set(attacked.whose(rows["cross"])) == set(attacked.whose(rows["again"]))
    assert {cls.CROSS != "" for cls in (InputAwareAttack, WaNetAttack)} == {True} and not BadNetAttack.CROSS
    kinds = {backdoor_tables.variant(network) for network in attacked.whose(rows["variants"])}
    assert kinds >= {"1 px", "2 px", "3 px", "5 px"} and "fine-tuned" not in kinds
    assert {cell.experiment.value.rescale.value for cell in sweeps["rescale"]} == set(backdoors.RESCALES)


def test_what_looks_triggered_is_computed_once_for_both_figures(hydra):  # noqa: F811
    own, other = (compose("config", overrides=[f"figure={name}", "profile=demo"]) for name in ("backdoors", "fig9"))
    assert own.figure.sweeps.cross == other.figure.sweeps.cross


def test_laptop_names_networks_that_come_along(hydra):  # noqa: F811
    """Also those of Figs. 8 and 9; a figure that needs more than there are says so before any work."""
    names = set()
    for figure in ("fig8", "fig9", "backdoors"):
        for cells in cells_of(figure, "laptop").values():
            names |= {c.weights.value.path for c in cells if c.weights.name == "checkpoint"}
            names |= {c.attack.value.path for c in cells if c.attack.name == "planted"}
    missing = [name for name in names - {None} if not (CHECKPOINTS / f"{name}.safetensors").is_file()]
    assert not missing and any(name and name.startswith("badnet") for name in names)


def test_a_sweep_without_cells_is_refused(run):
    ended = run("figure=backdoors", "profile=laptop", "profile.backdoors.variants=[]")
    assert ended.code == 1 and "figure=backdoors has nothing for its sweep variants" in ended.complaint
