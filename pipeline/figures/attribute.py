"""experiment=attribute as a picture: each image with the maps of one or several rules, without and with their bottom
process."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from pipeline.figures import captions, style
from pipeline.figures import maps as pictures

MOST = 8  # images that are drawn
COLUMNS = 7
SWEEP = "attribute"
EMPTY = pictures.Tile(None)
TEXT = """
{attribute.state}; explained: {attribute[explained]}. Below each map its alignment with the image. Maps in colour:
without bottom process, over all channels from the 0.5 % to the 99.5 % quantile. Red and blue: with the method's
bottom process, summed over channels, centred at 0, scaled by the 99.5 % quantile.
"""


def numbers(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """A row per picture: sweep, index and key (of the map), image, rule, name (of the layer it starts from),
    class_name, probability, alignment."""
    table = tables[SWEEP].reset_index(names="index")
    columns = ["image", "rule", "name", "index", "class_name", "label_name", "probability"]
    plain = table[[*columns, "alignment"]].assign(key="without_bottom")
    bottom = pictures.with_bottom(table).reindex(columns=[*columns, "alignment_bottom"])
    bottom = bottom.rename(columns={"alignment_bottom": "alignment"}).assign(key="with_bottom")
    found = pd.concat([plain, bottom], ignore_index=True).assign(sweep=SWEEP)
    return found[found["image"].isin(table["image"].unique()[:MOST])]


def caption(tables: Mapping[str, pd.DataFrame], profile: str) -> str:
    return captions.words(TEXT, tables)


def draw(numbers: pd.DataFrame, text: str, maps: Mapping[str, list]) -> Figure:
    lines: list[list[pictures.Tile]] = []
    inputs = pictures.rows(maps[SWEEP], "inputs", "x")
    for x, (image, part) in zip(inputs, numbers.groupby("image", sort=False), strict=False):
        first = part.iloc[0]
        decided = f"{first['class_name']} ({first['probability']:.0%})"
        start = pictures.Tile(pictures.image_like(x), str(image)[-22:], decided[:26])
        plain = [row for _, row in part[part["key"] == "without_bottom"].iterrows()]
        bottom = {row["rule"]: row for _, row in part[part["key"] == "with_bottom"].iterrows()}
        for at in range(0, len(plain), COLUMNS - 1):
            some = plain[at : at + COLUMNS - 1]
            tiles = [pictures.tile_of(row, maps, title(row)) for row in some]
            lines.append(filled([EMPTY if at else start, *tiles]))
            ends = [bottom.get(row["rule"]) for row in some]
            if any(end is not None for end in ends):
                tiles = [EMPTY if end is None else pictures.tile_of(end, maps, "with bottom") for end in ends]
                lines.append(filled([EMPTY, *tiles]))
    height = 0.98 * len(lines) * style.DOUBLE / COLUMNS * 1.18 + 0.45
    figure = style.page(height)
    pictures.draw_tiles(figure, lines, (0.01, 0.4 / height, 0.99, 1 - 0.16 / height))
    style.caption(figure, text, y=0.05 / height)
    return figure


def filled(line: list[pictures.Tile]) -> list[pictures.Tile]:
    return line + [EMPTY] * (COLUMNS - len(line))


def title(row: pd.Series) -> str:
    return f"from {row['name']}" if row["rule"] == "activation" else style.rule_look(row["rule"]).label
