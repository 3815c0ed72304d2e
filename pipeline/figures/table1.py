"""Table I: each method's filter and bottom process, its map with the bottom process, and its maps without under random
and trained weights.

The paper does not say from which layer the Activation column starts: here it is layer L / 3, and strips show others.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.errors import UserError
from pipeline.figures import captions, style
from pipeline.figures import maps as pictures

FILTERS = {  # F_l(W_l M_l) of the methods of the paper's table
    "grad": r"$W_l M_l$",
    "gbp": r"$W_l M_l\,\mathrm{diag}(\mathbf{1}_{r_l>0})$",
    "rectgrad": r"$W_l\,\mathrm{diag}(\mathbf{1}_{A_l\odot r_l>\tau})$",
    "lrp": r"$\gamma\, W_l^+ M_l$",
    "dtd": r"$\gamma\, W_l^+ M_l$",
    "activation": r"$r_l = A_l$",
}
BOTTOMS = {
    "grad": r"$x\odot r_0$",
    "gbp": r"$r_0$",
    "rectgrad": r"$\sigma(x\odot r_0)$",
    "lrp": r"$x\odot r_0$ ($z_{ij}^+$ by sign)",
    "dtd": r"$z^{\mathcal{B}}$ in layer 1",
    "activation": r"$r_0$",
}
LINES = {  # label, sweep, key
    "R, trained": ("trained", "with_bottom"),
    "random W/O B": ("random", "without_bottom"),
    "trained W/O B": ("trained", "without_bottom"),
}
COLUMNS = [
    "line", "image", "rule", "name", "layer", "model", "class_name", "label_name", "probability", "alignment", "sweep",
    "key", "index",
]  # fmt: skip
LEAST = 7  # columns of the page
STRIP = 7  # layers of the strips
SHOWN = 2  # images
TEXT = """
Profile {profile}: random is {random[model]} with {random.weights} weights{random.seeds}, trained is {trained[model]}
({trained.weights}{trained.seeds}); images of {trained[data]}, explained class: {trained[explained]}. Below each map
its alignment with the image. R: with the bottom process, summed over channels, centred at 0, each map divided by its
99.5 % quantile. W/O B: without bottom process, all channels from the 0.5 % to the 99.5 % quantile.{activation}
"""
ACTIVATION = " Activation: A at layer L/3 (named above), GBP below; strips: from other layers, for the first image."


def numbers(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """A row per picture: line (R, random W/O B, trained W/O B, or strip), sweep, index and key of the map, image, rule,
    name of the layer where it starts, class_name, probability, alignment. Raises UserError if no image is in both."""
    trained = set(tables["trained"]["image"])
    shared = [image for image in tables["random"]["image"].unique() if image in trained][:SHOWN]
    if not shared:
        raise UserError("the random and the trained network of table1 share no image; give both the same data=")
    rows = []
    for line, (sweep, key) in LINES.items():
        table = tables[sweep].reset_index(names="index")
        table = pictures.with_bottom(tables[sweep]) if key == "with_bottom" else table
        for rule in style.ordered(table["rule"]):
            part = table[table["rule"] == rule]
            if rule == "activation":
                layers = np.sort(part["layer"].unique())
                part = part[part["layer"] == layers[np.searchsorted(layers, -(-(layers[-1] + 1) // 3))]]
            rows.append(part[part["image"].isin(shared)].assign(line=line, sweep=sweep, key=key))
    for sweep in ("random", "trained"):
        table = tables[sweep].reset_index(names="index")
        part = style.where(table, rule="activation", image=shared[0]).sort_values("layer")
        if len(part):
            chosen = np.unique(np.linspace(0, len(part) - 1, STRIP).round().astype(int))
            rows.append(part.iloc[chosen].assign(line=f"strip {sweep}", sweep=sweep, key="without_bottom"))
    found = pd.concat(rows, ignore_index=True)
    if (ends := found["key"] == "with_bottom").any():
        found.loc[ends, "alignment"] = found["alignment_bottom"]
    return found[COLUMNS]


def caption(tables: Mapping[str, pd.DataFrame], profile: str) -> str:
    activation = ACTIVATION if "activation" in set(tables["trained"]["rule"]) else ""
    return captions.words(TEXT, tables, profile=profile, activation=activation)


def draw(numbers: pd.DataFrame, text: str, maps: Mapping[str, list]) -> Figure:
    series = style.looks(numbers["rule"])
    columns = max(LEAST, 1 + len(series))
    images, empty = list(numbers["image"].unique()), pictures.Tile(None)
    inputs = dict(zip(images, pictures.rows(maps["trained"], "inputs", "x"), strict=False))
    lines, labels = [], []
    for image in images:
        part = numbers[numbers["image"] == image]
        named = part[part["sweep"] == "trained"].iloc[0]
        decided = f"{named['class_name']} {named['probability']:.0%}"
        for line in LINES:
            tiles = [pictures.Tile(pictures.image_like(inputs[image]), "", decided) if line == "R, trained" else empty]
            for rule in series:
                found = style.where(part, line=line, rule=rule)
                above = found["name"].iloc[0] if len(found) and rule == "activation" else ""
                tiles.append(pictures.tile_of(found.iloc[0], maps, above) if len(found) else empty)
            lines.append(tiles + [empty] * (columns - len(tiles)))
            labels.append(line)
    height = 9.0 if len(images) > 1 else 5.6
    share = len(lines) / (len(lines) + 2.25)
    figure = style.page(height)
    bottom, top = 0.62 / height, 1 - 0.52 / height
    split = top - (top - bottom) * share
    header(figure, series, (0.995 - 0.035) / columns, 1 - 0.02 / height, height)
    pictures.draw_tiles(figure, lines, (0.035, split + 0.22 / height, 0.995, top), labels)
    strips = {
        sweep: [pictures.tile_of(row, maps, row["name"]) for _, row in part.iterrows()]
        for sweep in ("random", "trained")
        if len(part := numbers[numbers["line"] == f"strip {sweep}"])
    }
    if strips:
        place = (0.035, bottom, 0.995, split - 0.24 / height)
        pictures.draw_tiles(figure, list(strips.values()), place, list(strips))
        figure.text(0.035, split - 0.03 / height, "Activation from each layer, GBP below it", fontsize=7, va="top")
    style.caption(figure, text, y=0.05 / height)
    return figure


def header(figure: Figure, series: Mapping[str, style.Look], width: float, top: float, height: float) -> None:
    """Names, filters and bottom processes above the columns, of which one is `width` wide."""
    second, third = top - 0.17 / height, top - 0.34 / height
    end, small = 0.035 + width - 0.012, {"fontsize": 5.6, "va": "top"}
    figure.text(end, top - 0.18 / height, r"$F_l(W_lM_l)$", ha="right", **small)
    figure.text(end, third, "bottom", ha="right", **small)
    for i, (rule, look) in enumerate(series.items(), start=1):
        x = 0.035 + (i + 0.5) * width
        figure.text(x, top, look.label, fontsize=7.5, ha="center", va="top", color=look.colour)
        for y, texts in ((second, FILTERS), (third, BOTTOMS)):
            figure.text(x, y, texts.get(rule, ""), ha="center", **small)
