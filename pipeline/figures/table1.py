"""Table I: each method's filter and bottom process, its map with the bottom process, and its maps without under random and trained weights.

The paper does not say from which layer the Activation column starts: here it is layer L / 3, and strips show the other layers.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from pipeline.figures import maps as pictures
from pipeline.figures import style

RULES = ("grad", "gbp", "rectgrad", "lrp", "dtd", "activation")
FILTERS = {  # F_l(W_l M_l)
    "grad": r"$W_l M_l$", "gbp": r"$W_l M_l\,\mathrm{diag}(\mathbf{1}_{r_l>0})$", "rectgrad": r"$W_l\,\mathrm{diag}(\mathbf{1}_{A_l\odot r_l>\tau})$",
    "lrp": r"$\gamma\, W_l^+ M_l$", "dtd": r"$\gamma\, W_l^+ M_l$", "activation": r"$r_l = A_l$",
}  # fmt: skip
BOTTOMS = {
    "grad": r"$x\odot r_0$", "gbp": r"$r_0$", "rectgrad": r"$\sigma(x\odot r_0)$", "lrp": r"$x\odot r_0$ ($z_{ij}^+$ by sign)",
    "dtd": r"$z^{\mathcal{B}}$ in layer 1", "activation": r"$r_0$",
}  # fmt: skip
LINES = {  # label, sweep, key
    "R, trained": ("trained", "with_bottom"),
    "random W/O B": ("random", "without_bottom"),
    "trained W/O B": ("trained", "without_bottom"),
}
STRIP = 7  # layers of the strips
SHOWN = 2  # images


def numbers(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """A row per picture: line (R, random W/O B, trained W/O B, or strip), sweep, index and key of the map, image, rule, name of the layer
    where it starts, class_name, probability, alignment."""
    rows = []
    shared = [image for image in tables["random"]["image"].unique() if image in set(tables["trained"]["image"])][:SHOWN]
    for line, (sweep, key) in LINES.items():
        table = (
            pictures.with_bottom(tables[sweep]) if key == "with_bottom" else tables[sweep].reset_index(names="index")
        )
        for rule in RULES:
            part = table[table["rule"] == rule]
            if rule == "activation" and len(part):
                layers = np.sort(part["layer"].unique())
                part = part[part["layer"] == layers[np.searchsorted(layers, -(-(layers[-1] + 1) // 3))]]
            rows.append(part[part["image"].isin(shared)].assign(line=line, sweep=sweep, key=key))
    for sweep in ("random", "trained"):
        table = tables[sweep].reset_index(names="index")
        part = table[(table["rule"] == "activation") & (table["image"] == shared[0])].sort_values("layer")
        chosen = np.unique(np.linspace(0, len(part) - 1, STRIP).round().astype(int))
        rows.append(part.iloc[chosen].assign(line=f"strip {sweep}", sweep=sweep, key="without_bottom"))
    found = pd.concat(rows, ignore_index=True)
    found.loc[found["key"] == "with_bottom", "alignment"] = found["alignment_bottom"]
    return found[
        [
            "line",
            "image",
            "rule",
            "name",
            "layer",
            "model",
            "class_name",
            "label_name",
            "probability",
            "alignment",
            "sweep",
            "key",
            "index",
        ]
    ]


def caption(tables: Mapping[str, pd.DataFrame], profile: str) -> str:
    random, trained = tables["random"].iloc[0], tables["trained"].iloc[0]
    return (
        f"Profile {profile}: random is {random['model']} with {random['weights']} weights (seed {random['seed']}), trained is {trained['model']} ({trained['weights']}); images of "
        f"{trained['data']}, explained class: {trained['explained']}. Below each map its alignment with the image. R: with the bottom process, summed over channels, centred at 0, "
        "each map divided by its 99.5 % quantile. W/O B: without bottom process, all channels from the 0.5 % to the 99.5 % quantile. Activation: A at layer L/3 (named above), "
        "GBP below; strips: from other layers, for the first image."
    )


def draw(numbers: pd.DataFrame, text: str, maps: Mapping[str, list]) -> Figure:
    images = list(numbers["image"].unique())
    lines, labels = [], []
    inputs = dict(zip(images, pictures.rows(maps["trained"], "inputs", "x"), strict=False))
    for image in images:
        part = numbers[numbers["image"] == image]
        named = part[part["sweep"] == "trained"].iloc[0]
        for line in LINES:
            tiles = [
                pictures.Tile(
                    pictures.image_like(inputs[image]), "", f"{named['class_name']} {named['probability']:.0%}"
                )
                if line == "R, trained"
                else pictures.Tile(None)
            ]
            for rule in RULES:
                found = part[(part["line"] == line) & (part["rule"] == rule)]
                above = found["name"].iloc[0] if len(found) and rule == "activation" else ""
                tiles.append(pictures.tile_of(found.iloc[0], maps, above) if len(found) else pictures.Tile(None))
            lines.append(tiles)
            labels.append(line)
    height = 9.0 if len(images) > 1 else 5.6
    share = len(lines) / (len(lines) + 2.25)
    figure = plt.figure(figsize=(style.DOUBLE, height))
    bottom, top = 0.62 / height, 1 - 0.52 / height
    split = top - (top - bottom) * share
    header(figure, 0.035, 0.995, 1 - 0.02 / height, height)
    pictures.draw_tiles(figure, lines, (0.035, split + 0.22 / height, 0.995, top), labels)
    strips = [
        [pictures.tile_of(row, maps, row["name"]) for _, row in numbers[numbers["line"] == f"strip {sweep}"].iterrows()]
        for sweep in ("random", "trained")
    ]
    pictures.draw_tiles(figure, strips, (0.035, bottom, 0.995, split - 0.24 / height), ["random", "trained"])
    figure.text(0.035, split - 0.03 / height, "Activation from each layer, GBP below it", fontsize=7, va="top")
    style.caption(figure, text, y=0.05 / height)
    return figure


def header(figure: Figure, left: float, right: float, top: float, height: float) -> None:
    """Names, filters and bottom processes above the columns."""
    width = (right - left) / 7
    figure.text(left + width - 0.012, top - 0.18 / height, r"$F_l(W_lM_l)$", fontsize=5.6, ha="right", va="top")
    figure.text(left + width - 0.012, top - 0.34 / height, "bottom", fontsize=5.6, ha="right", va="top")
    for i, rule in enumerate(RULES, start=1):
        x = left + (i + 0.5) * width
        look = style.rule_look(rule)
        figure.text(x, top, look.label, fontsize=7.5, ha="center", va="top", color=look.colour)
        figure.text(x, top - 0.17 / height, FILTERS[rule], fontsize=5.6, ha="center", va="top")
        figure.text(x, top - 0.34 / height, BOTTOMS[rule], fontsize=5.6, ha="center", va="top")
