"""What the cards in pipeline/checkpoints and the README quote of finished trainings, as rows of their tables.

    python scripts/cards.py [--root CIFAR10] FOLDER...     each FOLDER a results/train/<key>

For clean networks and for those of each attack a card's tables, beside a clean network of the same seed; on the test
images how much triggers change pixels, also of attacks that train no net, drawn by the first seed; where patches fail.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from pipeline.attacks import ATTACKS
from pipeline.attacks.files import read_attack
from pipeline.attacks.interface import Attack, Site
from pipeline.experiments.train import load_split
from pipeline.files import CONF
from pipeline.networks.training import LabelledImages
from pipeline.networks.weight_files import load_complete, read_checkpoint
from pipeline.run.parsing import chosen
from pipeline.seeds import derived_seed

BATCH, FAINT = 500, 0.05  # images at once; a patch that changes its pixels by less, on average


class Training:
    def __init__(self, folder: Path):
        self.folder, self.config = folder, yaml.safe_load((folder / "config.yaml").read_text())
        self.table = pd.read_parquet(folder / "table.parquet").dropna(subset="accuracy")
        self.facts = json.loads((folder / "manifest.json").read_text())["facts"]
        self.seed, self.name = self.config["experiment"]["seed"], self.config.get("attack", {}).get("choice", "none")
        self.attack = None if self.name == "none" else read_attack(folder / "attack.safetensors", self.name).attack

    def option(self, group: str, **more: Any) -> Any:
        return chosen(group, (given := {**self.config[group], **more}).pop("choice"), json.dumps(given)).value


def row(*cells: Any) -> str:
    return f"| {' | '.join(f'{100 * c:.2f}' if isinstance(c, float) else str(c) for c in cells)} |"


def of_clean(runs: list[Training]) -> list[str]:
    each = zip(*(run.table.itertuples() for run in runs), strict=True)
    epochs = [row(of[0].epoch, *(cell for e in of for cell in (f"{e.loss:.3f}", e.accuracy))) for of in each]
    return [*(row(r.seed, r.facts["accuracy_folded_half"], r.facts["accuracy"]) for r in runs), "", *epochs]


def of_attacked(runs: list[Training], clean: dict[int, float]) -> list[str]:
    ends, epochs = [], []
    for run in runs:
        names = [name for name in ("success", "success_all", "accuracy_cross") if name in run.facts]
        last = [run.facts["accuracy_folded_half"], clean.get(run.seed, "-")]
        ends.append(row(run.seed, *last, *(run.facts[f"{name}_folded_half"] for name in names)))
        by_epoch = ["accuracy", *(name for name in ("success", "accuracy_cross") if name in names)]
        for epoch, loss, *measures in run.table[["epoch", "loss", *by_epoch]].itertuples(index=False):
            epochs.append(row(run.seed, epoch, f"{loss:.3f}", *measures))
    return [*ends, "", *epochs]


def changed(attack: Attack, test: LabelledImages) -> list[str]:
    """Root mean square over pixels, of images at their side, at three quarters and at half of it."""
    sides, total = [test.images.shape[-1] * share // 4 for share in (4, 3, 2)], torch.zeros(3, dtype=torch.float64)
    for start in range(0, len(test.labels), BATCH):
        x = test.pixels(slice(start, start + BATCH))
        change = attack.trigger(x, range(start, start + len(x))) - x
        small = [F.interpolate(change, size=(side, side), mode="bilinear", antialias=True) for side in sides]
        total += torch.stack([one.double().square().mean((1, 2, 3)).sum() for one in small])
    return [f"{rms:.3f}" for rms in (total / len(test.labels)).sqrt().tolist()]


@torch.no_grad()
def failures(run: Training, attack: Attack, test: LabelledImages) -> str:
    """Of images not of the trigger's class: failures, FAINT ones of them, all FAINT ones, success there, elsewhere."""
    module, found = run.option("model").build().eval(), []
    load_complete(module, read_checkpoint(str(run.folder / "model.safetensors")), str(run.folder))
    for start in range(0, len(test.labels), BATCH):
        x, y = test.pixels(slice(start, start + BATCH)), test.labels[start : start + BATCH]
        seeds = range(start, start + len(x))  # as in training.measured
        triggered, wanted, inside = attack.trigger(x, seeds), attack.targets(y, seeds), attack.mask(x, seeds)
        change = ((triggered - x).abs() * inside).sum((1, 2, 3)) / inside.sum((1, 2, 3)) / x.shape[1]
        hit = module(test.normalised(triggered)).argmax(1) == wanted
        found.append(torch.stack([hit, change < FAINT])[:, y != wanted])
    hit, faint = torch.cat(found, 1)
    shares = (hit[some].double().mean().item() for some in (faint, ~faint))
    return row(run.seed, *(int(some.sum()) for some in (~hit, ~hit & faint, faint)), *shares)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--root", help="where the data are now, if not where they were")
    given = parser.parse_args(arguments)
    runs = [Training(folder) for folder in given.folders]
    clean = {run.seed: run.facts["accuracy_folded_half"] for run in runs if run.name == "none"}
    for name in dict.fromkeys(run.name for run in runs):
        some = [run for run in runs if run.name == name]
        head, rows = ("clean", of_clean(some)) if name == "none" else (name, of_attacked(some, clean))
        print(f"{head}\n", *rows, "", sep="\n")
    moved = {"root": given.root} if given.root else {}
    test = load_split(runs[0].option("data", **moved), "test", runs[0].option("model"), torch.device("cpu"))
    drawn = {f"{run.name} {run.seed}": run.attack for run in runs if run.attack}
    for name in [name for name in ATTACKS if name not in ("none", *(run.name for run in runs))]:
        settings = json.dumps(yaml.safe_load((CONF / "attack" / f"{name}.yaml").read_text()))
        site = Site(tuple(test.images.shape[1:]), len(test.labels), int(test.labels.max()) + 1)
        attack = chosen("attack", name, settings).value.build(site, derived_seed(runs[0].seed, 5))
        drawn |= {} if list(attack.parameters()) else {f"{name}, untrained": attack}
    print("change of pixels\n", *(row(name, *changed(attack, test)) for name, attack in drawn.items()), "", sep="\n")
    patches = [run for run in runs if run.attack and run.attack.mask(test.pixels(slice(1)), [0]) is not None]
    print("failures of patches\n", *(failures(run, run.attack, test) for run in patches if run.attack), sep="\n")


if __name__ == "__main__":
    main()
