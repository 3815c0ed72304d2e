"""One look for all figures: an IEEE page's widths, a colour and a mark per rule, line style and filling for the weights' state."""

import textwrap
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

SINGLE, DOUBLE = 3.5, 7.16  # column widths in inches

# Okabe and Ito's colours, told apart by colour-blind readers; marks tell them apart in grey.
COLOURS = {
    "grad": "#000000",
    "gbp": "#0072B2",
    "rectgrad": "#D55E00",
    "lrp": "#009E73",
    "dtd": "#56B4E9",
    "activation": "#CC79A7",
}
MARKS = {"grad": "x", "gbp": "o", "rectgrad": "s", "lrp": "^", "dtd": "v", "activation": "D"}
LABELS = {
    "grad": "Gradient",
    "gbp": "GBP",
    "rectgrad": "RectGrad",
    "lrp": r"LRP ($z^+$)",
    "dtd": "DTD",
    "activation": "Activation",
}
# Relatives of a rule have its colour, and a line and a mark of their own.
COLOURS |= {"deconvnet": COLOURS["gbp"], "lrp_epsilon": COLOURS["lrp"], "lrp_alphabeta": COLOURS["lrp"]}
MARKS |= {"deconvnet": "H", "lrp_epsilon": "1", "lrp_alphabeta": "2"}
LABELS |= {"deconvnet": "DeconvNet", "lrp_epsilon": r"LRP-$\varepsilon$", "lrp_alphabeta": r"LRP-$\alpha\beta$"}
RULE_LINES = {**dict.fromkeys(COLOURS, "-"), "deconvnet": "--", "lrp_epsilon": ":", "lrp_alphabeta": "--"}

STATES = {"random": ("-", True), "trained": ("--", False)}  # line style, filled marks
STATE_COLOURS = {"random": "#444444", "trained": "#E69F00"}
NULL_LABELS = {
    "mosaic": "mosaic",
    "mean_colour": "mean colour",
    "edges": "edge map",
    "noise": "random map",
    "other": "other image",
    "blur": "blur",
}

# Laws of the weights: Tol's muted colours and marks that no rule has, for curves of laws stand beside curves of rules.
LAW_COLOURS = {
    "gaussian": "#332288", "ring": "#44AA99", "heavy_tailed": "#117733", "uniform": "#CC6677", "uniform_literal": "#882255",  # E[w w'] = c I
    "anisotropic": "#999933", "uniform01": "#AA4499", "removal": "#661100", "thinned": "#6699CC",
}  # fmt: skip
LAW_MARKS = {
    "gaussian": "*", "ring": "P", "heavy_tailed": "p", "uniform": ">", "uniform_literal": "8",
    "anisotropic": "d", "uniform01": "<", "removal": "X", "thinned": "h",
}  # fmt: skip
LAW_LABELS = {
    "gaussian": "Gaussian", "ring": "ring", "heavy_tailed": "heavy-tailed", "uniform": "uniform", "uniform_literal": "uniform, unscaled",
    "anisotropic": "anisotropic", "uniform01": "uniform [0, 1]", "removal": "removal", "thinned": "random removal",
}  # fmt: skip

# Where propagation starts in Fig. 6: Tol's high-contrast colours, which keep apart in grey.
PART_COLOURS = {
    "all": "#000000",
    "max": "#BB5566",
    "min": "#004488",
    "random": "#888888",
    "constant_max": "#BB5566",
    "constant_min": "#004488",
}
PART_MARKS = {"all": "o", "max": "^", "min": "v", "random": "x", "constant_max": "^", "constant_min": "v"}
PART_LABELS = {
    "all": "all units", "max": "max (largest)", "min": "min (smallest)", "random": "random", "constant_max": "constant on max", "constant_min": "constant on min",
}  # fmt: skip

# Decisions in Fig. 8: colour and line.
OUTCOMES = {"correct": ("#228833", "-"), "incorrect": ("#AA3377", "--")}
INPUT_LABELS = {  # what the network is given in x's place
    "attribution": "attribution", "insertion": "insertion", "insertion_magnitude": "insertion by magnitude", "edge": "edge map", "noise": "random map",
    "blur": "blurred x", "other": "another image's map", "runner_up": "runner-up class's map", "random_network": "random network's map",
}  # fmt: skip
INPUT_MARKS = {"attribution": ("#000000", "o"), "insertion": ("#66CCEE", "v"), "insertion_magnitude": ("#EE6677", "^")}


def use_style() -> None:
    matplotlib.use("Agg")
    sns.set_theme(context="paper", style="ticks", font="DejaVu Sans", rc={
        "font.size": 8, "axes.labelsize": 8, "axes.titlesize": 8, "legend.fontsize": 7, "xtick.labelsize": 7, "ytick.labelsize": 7,
        "axes.linewidth": 0.6, "lines.linewidth": 1.1, "lines.markersize": 3, "xtick.major.width": 0.6, "ytick.major.width": 0.6,
        "xtick.major.size": 2.5, "ytick.major.size": 2.5, "legend.frameon": False, "pdf.fonttype": 42, "ps.fonttype": 42,
        "figure.dpi": 100, "savefig.dpi": 200, "mathtext.fontset": "dejavusans",
    })  # fmt: skip


def rule_look(rule: str) -> tuple[str, str, str, str]:
    """Colour, mark, line and label of a rule; grey and its own name for one that has no look here."""
    return COLOURS.get(rule, "#666666"), MARKS.get(rule, "."), RULE_LINES.get(rule, "-."), LABELS.get(rule, rule)


def panel_title(ax: Axes, letter: str, text: str, pad: float = 4) -> None:
    ax.set_title(f"({letter}) {text}" if letter else text, loc="left", pad=pad)
    sns.despine(ax=ax)


def labels_at_right(ax: Axes, values: dict[str, float], colour: str, gap: float = 0.043) -> None:
    """Texts at the right end of horizontal lines, moved apart where they would overlap; gap: least distance, share of the axis."""
    low, high = ax.get_ylim()
    at = -1.0
    for text, value in sorted(values.items(), key=lambda item: item[1]):
        at = max((value - low) / (high - low), at + gap)
        ax.annotate(
            text,
            (1.0, (value - low) / (high - low)),
            (1.02, at),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            fontsize=6,
            color=colour,
        )


def caption(figure: Figure, text: str, y: float = 0.008, width: int = 168) -> None:
    """A small text below everything, `width` characters a line."""
    figure.text(0.01, y, textwrap.fill(text, width), fontsize=5.8, color="#333333", va="bottom", ha="left")


def save(figure: Figure, path: Path) -> None:
    figure.savefig(
        path, metadata={"CreationDate": None} if path.suffix == ".pdf" else None
    )  # the same file from the same table


def close(figure: Figure) -> None:
    plt.close(figure)
