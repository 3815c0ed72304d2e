"""experiment=attribute as a picture: each image with the maps of one or several rules, without and with their bottom process."""

from collections.abc import Mapping

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from pipeline.figures import maps as pictures
from pipeline.figures import style

MOST = 8  # images that are drawn
COLUMNS = 7
SWEEP = "attribute"


def numbers(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """A row per picture: sweep, index and key (of the map), image, rule, name (of the layer it starts from), class_name, probability, alignment."""
    table = tables[SWEEP].reset_index(names="index")
    columns = ["image", "rule", "name", "index", "class_name", "label_name", "probability"]
    plain = table[[*columns, "alignment"]].assign(key="without_bottom")
    bottom = (
        pictures.with_bottom(table)
        .reindex(columns=[*columns, "alignment_bottom"])
        .rename(columns={"alignment_bottom": "alignment"})
    )
    found = pd.concat([plain, bottom.assign(key="with_bottom")], ignore_index=True).assign(sweep=SWEEP)
    return found[found["image"].isin(table["image"].unique()[:MOST])]


def caption(tables: Mapping[str, pd.DataFrame], profile: str) -> str:
    row = tables[SWEEP].iloc[0]
    state = f"{row['model']}, weights {row['weights']}" + (
        f" seed {row['seed']}" if row["weights"] not in ("pretrained", "checkpoint") else ""
    )
    return (
        f"{state}; explained: {row['explained']}. Below each map its alignment with the image. Maps in colour: without bottom process, over all channels from the 0.5 % "
        "to the 99.5 % quantile. Red and blue: with the method's bottom process, summed over channels, centred at 0, scaled by the 99.5 % quantile."
    )


def draw(numbers: pd.DataFrame, text: str, maps: Mapping[str, list]) -> Figure:
    lines, labels = [], []
    for i, (image, part) in enumerate(numbers.groupby("image", sort=False)):
        first = part.iloc[0]
        x = pictures.Tile(
            pictures.image_like(pictures.rows(maps[SWEEP], "inputs", "x")[i]),
            str(image)[-22:],
            f"{first['class_name']} ({first['probability']:.0%})"[:26],
        )
        plain = [(row, title(row)) for _, row in part[part["key"] == "without_bottom"].iterrows()]
        bottom = {row["rule"]: row for _, row in part[part["key"] == "with_bottom"].iterrows()}
        empty = pictures.Tile(None)
        for at in range(0, len(plain), COLUMNS - 1):
            chunk = plain[at : at + COLUMNS - 1]
            fill = [empty] * (COLUMNS - 1 - len(chunk))
            lines.append(
                [x if at == 0 else empty, *(pictures.tile_of(row, maps, above) for row, above in chunk), *fill]
            )
            if any(row["rule"] in bottom for row, _ in chunk):
                lines.append(
                    [
                        empty,
                        *(
                            pictures.tile_of(bottom[row["rule"]], maps, "with bottom")
                            if row["rule"] in bottom
                            else empty
                            for row, _ in chunk
                        ),
                        *fill,
                    ]
                )
    height = 0.98 * len(lines) * style.DOUBLE / COLUMNS * 1.18 + 0.45
    figure = plt.figure(figsize=(style.DOUBLE, height))
    pictures.draw_tiles(figure, lines, (0.01, 0.4 / height, 0.99, 1 - 0.16 / height), labels)
    style.caption(figure, text, y=0.05 / height)
    return figure


def title(row: pd.Series) -> str:
    return f"from {row['name']}" if row["rule"] == "activation" else style.rule_look(row["rule"]).label
