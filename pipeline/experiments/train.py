"""Training (the networks of the demo, and of Fig. 8): a row per epoch, the network beside it."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from pipeline.attacks.files import state_of
from pipeline.attacks.interface import Clean, Settings, Site
from pipeline.errors import UserError
from pipeline.experiments.interface import Result
from pipeline.images.sets import Selection
from pipeline.networks import training
from pipeline.networks.catalogue import Model, traced
from pipeline.networks.training import LabelledImages
from pipeline.networks.training import TrainOptions as Options
from pipeline.networks.weight_files import load_complete, read_checkpoint
from pipeline.seeds import derived_seed

COLUMNS = ["epoch", "loss", *training.METRICS, "lr", "seconds"]


def run(
    model: Model, data: Selection, attack: Settings | Clean, options: Options, work: Path, device: torch.device
) -> list[Result]:
    """A row per epoch: COLUMNS, of the test split, missing where not measured; accuracy: share of images classified
    right; under an attack success: share of triggered images not of the target class that are classified as it
    (success_all: of all images), accuracy_cross: share of images that look like triggered ones (InputAware's
    cross-trigger, WaNet's noise mode) classified right.

    Beside the table: model.safetensors, float32, as trained, and folded.safetensors, half precision, BatchNorm folded,
    for weights=checkpoint; under an attack attack.safetensors, its state, nets in half precision. The manifest's facts
    hold the measures of the last epoch, and of what is kept in half precision (..._folded_half).
    """
    if not data.TRAINING:
        raise UserError(
            "these data have no training images of their own; choose data=cifar10 (also for a folder with "
            "train/<class> and test/<class>) or data=digits"
        )
    train, test = (load_split(data, split, model, device) for split in ("train", "test"))

    def progress(steps, done, total):
        yield from tqdm(
            steps, initial=done, total=total, unit="image", unit_scale=options.batch_size, dynamic_ncols=True
        )

    def build() -> nn.Module:
        module = model.build()
        if options.start:
            load_complete(module, read_checkpoint(options.start, "train.start"), options.start)
        return module

    classes = build().eval()(train.normalised(train.pixels(slice(1))).cpu()).shape[1]
    if (most := int(max(train.labels.max(), test.labels.max()))) >= classes:
        raise UserError(
            f"the data have the label {most}, but the model has the classes 0 to {classes - 1}; give it as many as the "
            "data have"
        )
    channels, height, width = train.images.shape[1:]
    site = Site((channels, height, width), len(train.labels), classes)
    planted = attack.build(site, derived_seed(options.seed, 5))
    module, rows = training.train(build, train, test, options, planted, work / "state.pt", progress)
    module, planted = module.cpu(), planted.cpu()
    network = traced(model, module)
    folded = {k: v.half() if v.is_floating_point() else v for k, v in network.module.state_dict().items()}
    tensors = {"model": module.state_dict(), "folded": folded}
    heads = {}
    if isinstance(attack, Settings):
        tensors["attack"], heads["attack"] = state_of(planted, attack, site)
        planted.load_state_dict(tensors["attack"])
    network.module.load_state_dict(folded)  # measured in the precision that is kept
    kept = training.measured(network.module.to(device), test, False, planted.to(device))
    facts = {
        name: value
        for name in training.METRICS
        for name, value in ((name, rows[-1][name]), (f"{name}_folded_half", kept[name]))
        if not math.isnan(value)
    }
    return [Result(pd.DataFrame(rows, columns=COLUMNS), tensors, facts, heads)]


def load_split(data: Selection, split: str, model: Model, device: torch.device) -> LabelledImages:
    """A labelled split in memory, uint8. Raises UserError if it is not of the model's size or lacks labels."""
    images, pre = data.images(split), model.preprocessing()
    arrays = [
        np.asarray(images.load(i))
        for i in tqdm(range(len(images)), desc=f"reading {split}", unit="image", dynamic_ncols=True)
    ]
    if any(a.shape != (pre.crop, pre.crop, 3) for a in arrays):
        raise UserError(
            f"training reads images as they are, and those of the data are not all {pre.crop} x {pre.crop} pixels; "
            "resize them, or choose a model of their size"
        )
    if min(images.labels) < 0:
        raise UserError("training needs labelled images; choose data=cifar10")
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
    return LabelledImages(pixels.to(device), torch.tensor(images.labels, device=device), pre.mean, pre.std)
