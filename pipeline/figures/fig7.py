"""Fig. 7: misclassified images layer by layer: what is left of them, and of that what counts for the decided class and
for its rival."""

import textwrap
from collections.abc import Mapping
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.errors import UserError
from pipeline.figures import captions, style
from pipeline.figures import maps as pictures

SWEEP = "fig7"
CASES, LAYERS = 3, 8  # drawn at most
COLUMNS = [
    "image", "label", "label_name", "decision", "decision_name", "probability_decision", "rival", "rival_name",
    "probability_rival", "layer", "name", "start", "side", "target", "class_name", "probability", "alignment", "colour",
    "similarity",
]  # fmt: skip
TEXT = """
{profile}{fig7.state}, data {fig7[data]}, n = {fig7.count} images kept, one of each pair of label and decision drawn.
First rows: the activation A_l seeded at layer l, GBP below. Second and third: only those units of A_l that {rules}
credits with the class (r_l > 0), GBP below; at the end the rule's own map, from the output. Below each map: its
alignment with the image / that of the colours alone (mean over channels subtracted); third rows: cosine with the map
above. Every map is scaled over all its channels from its 0.5 % to its 99.5 % quantile.
"""
TILE, GAP, HEAD, FOOT = 0.645, 0.06, 0.33, 0.13  # inches: a picture, between two, above a case, below each picture


def numbers(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """A row per picture (COLUMNS; sweep, index, key of its map): of each pair of label and decision the most confident
    image, the most confident pairs first, at evenly spaced layers. Raises UserError if no image was chosen."""
    table = tables[SWEEP].reset_index(names="index").assign(sweep=SWEEP, key="map")
    if table.empty:
        raise UserError(
            "none of the images is such a failure; "
            "set failure.errors=false to draw images that are classified right, or take other data"
        )
    images = table.drop_duplicates("image").sort_values("probability_decision", ascending=False, kind="stable")
    images = images[(images["label"] < 0) | ~images.duplicated(["label", "decision"])]
    drawn = images["image"].head(max(1, CASES // table["rule"].nunique()))
    seen = table[table["layer"].isin(some_layers(table)) | table["start"].isin(["image", "rule"])]
    parts = [part for image in drawn for _, part in seen[seen["image"] == image].groupby("rule", sort=False)]
    return pd.concat(parts, ignore_index=True)[["rule", *COLUMNS, "sweep", "index", "key"]]


def some_layers(table: pd.DataFrame) -> list[int]:
    layers = sorted(table.loc[table["start"] == "activation", "layer"].unique())
    return [layers[round(i)] for i in np.linspace(0, len(layers) - 1, min(LAYERS, len(layers)))]


def caption(tables: Mapping[str, pd.DataFrame], profile: str) -> str:
    rules = " or ".join(look.label for look in style.looks(tables[SWEEP]["rule"]).values())
    return captions.words(TEXT, tables, profile=f"Profile {profile}: " if profile else "", rules=rules)


def draw(numbers: pd.DataFrame, text: str, maps: Mapping[str, list]) -> Figure:
    cases = [part for _, part in numbers.groupby(["image", "rule"], sort=False)]
    block = HEAD + 3 * (TILE + FOOT) + 0.06
    height = len(cases) * block + 0.45
    figure = style.page(height)
    for i, case in enumerate(cases):
        draw_case(figure, case, maps, height - i * block, name_rule=numbers["rule"].nunique() > 1)
    style.caption(figure, text, y=0.05 / height)
    return figure


def draw_case(figure: Figure, case: pd.DataFrame, maps: Mapping[str, list], top: float, name_rule: bool) -> None:
    """One block, from `top` inches above the page's foot."""
    layers = case[case["start"] == "activation"]
    columns = {layer: 1 + i for i, layer in enumerate(layers["layer"])}
    last = 1 + len(columns)
    lines = {"": 0, "target": 1, "rival": 2}
    for _, row in case.iterrows():
        line = lines[row["side"]]
        column = {"image": 0, "rule": last}.get(row["start"], columns.get(row["layer"]))
        ends = row["start"] == "rule" and line == 1
        above = row["name"] if row["start"] == "activation" else "output" if ends else ""
        draw_picture(figure, pictures.tile_of(row, maps, above, below(row)), column, line, top)
    for side in ("target", "rival"):
        row = case[case["side"] == side].iloc[0]
        words = [
            "units for",
            *textwrap.wrap(class_text(row["class_name"], row["target"]), 14)[:4],
            f"p = {row['probability']:.3f}",
        ]
        left, bottom = corner(0, lines[side], top)
        put(figure, left + TILE - 0.03, bottom + TILE / 2, "\n".join(words), size=6, ha="right")
    rule = f"; {style.rule_look(case['rule'].iloc[0]).label}" if name_rule else ""
    put(figure, 0.06, top - 0.11, headline(case.iloc[0]) + rule, size=8, weight="bold")


def below(row: pd.Series) -> str:
    if row["start"] == "image":
        name = PurePosixPath(row["image"]).stem
        return name if len(name) < 18 else f"...{name[-15:]}"
    return f"cos {row['similarity']:.3f}" if row["side"] == "rival" else f"{row['alignment']:.2f} / {row['colour']:.2f}"


def draw_picture(figure: Figure, tile: pictures.Tile, column: int, line: int, top: float) -> None:
    width, height = figure.get_size_inches()
    left, bottom = corner(column, line, top)
    ax = figure.add_axes((left / width, bottom / height, TILE / width, TILE / height))
    pictures.show(ax, tile.picture, pixels=round(200 * TILE))
    ax.set_title(tile.above, fontsize=6, pad=1.5)
    ax.set_xlabel(tile.below, fontsize=5.5, labelpad=1.5)


def corner(column: int, line: int, top: float) -> tuple[float, float]:
    """Left and bottom of a picture in inches."""
    return 0.06 + column * (TILE + GAP), top - HEAD - line * (TILE + FOOT) - TILE


def put(figure: Figure, x: float, y: float, text: str, size: float, ha: str = "left", weight: str = "normal") -> None:
    width, height = figure.get_size_inches()
    figure.text(x / width, y / height, text, fontsize=size, ha=ha, va="center", weight=weight, linespacing=1.1)


def headline(row: pd.Series) -> str:
    decision = f"{class_text(row['decision_name'], row['decision'])}, p = {row['probability_decision']:.3f}"
    if row["label"] < 0:
        return f"decided: {decision}; label unknown"
    if row["label"] == row["decision"]:
        return f"{decision}, rightly"
    return f"{class_text(row['label_name'], row['label'])}, taken for {decision}"


def class_text(name: str, k: int) -> str:
    return f"class {k}" if name == str(k) else f"{name} ({k})"
