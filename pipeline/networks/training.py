"""One training loop: SGD with Nesterov momentum, one cycle, crops and flips, growing image size, resumable at any step;
clean, or under an attack, which changes its batches and may train a net of its own beside it.

Every random number is keyed by (seed, step), never taken from a running stream, so that a run that was
interrupted and resumed is, on the same machine and thread count, bit for bit the run that was not.
"""

import io
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.attacks.interface import Attack, NoAttack
from pipeline.errors import UserError
from pipeline.files import save_atomically, summed, unsummed
from pipeline.seeds import derived_seed, keyed

METRICS = ("accuracy", "success", "success_all", "accuracy_cross")


@dataclass(frozen=True)
class TrainOptions:
    """seed: start weights, order, crops and dropout; start: a checkpoint to start from instead; lr: peak of the
    cycle; warmup: share of the steps before the peak; sizes, epochs: image side in pixels and number of epochs of
    each stage (small images are cheap, the last stage decides); crop: pixels of reflected border from which crops
    are cut; bf16: bfloat16 autocast; test_every: epochs between measurements of accuracy (the last epoch has one);
    save_every: seconds between checkpoints."""

    seed: int
    start: str | None
    sizes: list[int]
    epochs: list[int]
    batch_size: int
    lr: float
    warmup: float
    momentum: float
    weight_decay: float
    label_smoothing: float
    crop: int
    flip: bool
    bf16: bool
    test_every: int
    save_every: float

    CHANGE_NOTHING: ClassVar = ("save_every",)

    def __post_init__(self):
        if (
            len(self.sizes) != len(self.epochs)
            or not self.epochs
            or min(*self.epochs, *self.sizes, self.batch_size, self.test_every) < 1
        ):
            raise ValueError(
                "sizes and epochs must be lists of one length, and they, batch_size and test_every at least 1"
            )
        if not 0 < self.warmup < 1:
            raise ValueError(f"warmup must lie between 0 and 1, not {self.warmup}")


@dataclass(frozen=True)
class LabelledImages:
    """A labelled set in memory: images (N, C, H, W) uint8, labels (N,) int64, mean and std per channel of pixels in
    [0, 1]."""

    images: Tensor
    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def pixels(self, which: Tensor | slice) -> Tensor:
        """(B, C, H, W) float32 in [0, 1]."""
        return self.images[which].float() / 255

    def normalised(self, pixels: Tensor) -> Tensor:
        """Pixels in [0, 1] -> what the network takes, channels last."""
        mean = torch.tensor(self.mean, device=pixels.device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(1, -1, 1, 1)
        return ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)


def one_cycle(step: int, steps: int, peak: float, warmup: float) -> float:
    """Learning rate at a step: linear from 0 to the peak during the warm-up, then a half cosine down to 0."""
    position, turn = (step + 1) / steps, warmup
    if position < turn:
        return peak * position / turn
    return peak * (1 + math.cos(math.pi * (position - turn) / (1 - turn))) / 2


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def finite(*tensors: Tensor) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def augment(pixels: Tensor, border: int, flip: bool, generator: torch.Generator) -> Tensor:
    """A random crop from the reflected border and a random flip for each image by itself; pixels (B, C, H, W)."""
    b, c, h, w = pixels.shape
    top = torch.randint(0, 2 * border + 1, (b, 1), generator=generator)
    left = torch.randint(0, 2 * border + 1, (b, 1), generator=generator)
    columns = torch.arange(w).expand(b, w)
    if flip:
        flipped = torch.rand(b, 1, generator=generator) < 0.5
        columns = torch.where(flipped, columns.flip(1), columns)
    padded = F.pad(pixels.float(), (border,) * 4, mode="reflect").to(pixels.dtype) if border else pixels
    rows = (torch.arange(h) + top).to(pixels.device)[:, None, :, None]
    columns = (columns + left).to(pixels.device)[:, None, None, :]
    images = torch.arange(b, device=pixels.device)[:, None, None, None]
    return padded[images, torch.arange(c, device=pixels.device)[None, :, None, None], rows, columns]


@torch.no_grad()
def measured(
    model: nn.Module, data: LabelledImages, bf16: bool, attack: Attack, batch_size: int = 500
) -> dict[str, float]:
    """METRICS in evaluation mode, as shares: images classified right; where there is an attack also of triggered images
    not of the trigger's class, and of all, those that go where it wants, and of those that look like triggered ones
    (attack.CROSS) those classified right; NaN where that is not defined."""
    model.eval()
    order = torch.randperm(len(data.labels), generator=keyed(0))  # neighbours are often of one class
    other = torch.empty_like(order).scatter(0, order, order.roll(1))  # for each image another one
    counts: dict[str, int] = dict.fromkeys(METRICS, 0)
    totals = counts.copy()

    def decisions(pixels: Tensor) -> Tensor:
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=bf16):
            return model(data.normalised(pixels)).argmax(1)

    def count(name: str, hits: Tensor):
        counts[name] += int(hits.sum())
        totals[name] += len(hits)

    for start in range(0, len(data.labels), batch_size):
        some = slice(start, start + batch_size)
        x, y = data.pixels(some), data.labels[some]
        seeds = range(start, start + len(y))
        count("accuracy", decisions(x) == y)
        if not isinstance(attack, NoAttack):
            wanted = attack.targets(y, seeds)
            hits = decisions(attack.trigger(x, seeds)) == wanted
            count("success", hits[y != wanted])
            count("success_all", hits)
        if attack.CROSS:
            count("accuracy_cross", decisions(attack.cross(x, data.pixels(other[some]), seeds)) == y)
    return {name: counts[name] / totals[name] if totals[name] else math.nan for name in METRICS}


def read_state(checkpoint: Path, device: torch.device) -> dict[str, Any] | None:
    """Of a training that was interrupted; None if there is none, or none that is whole, which is said."""
    try:
        return torch.load(io.BytesIO(unsummed(checkpoint.read_bytes())), map_location=device, weights_only=True)
    except FileNotFoundError:
        pass
    except ValueError as error:
        print(f"{checkpoint} is damaged ({error}): the training begins anew", file=sys.stderr)
    return None


def train(
    build: Callable[[], nn.Module],
    training: LabelledImages,
    test: LabelledImages,
    options: TrainOptions,
    attack: Attack,
    checkpoint: Path,
    progress: Callable[[Iterator[int], int, int], Iterator[int]],
) -> tuple[nn.Module, list[dict[str, Any]]]:
    """Train `build()`, and with it what `attack` trains, and return it in evaluation mode with one row of metrics per
    epoch.

    Goes on from `checkpoint` if that is there and whole; writes it at the end of each epoch and every `save_every`
    seconds. `progress(steps, done, total)` wraps the iterator over the remaining steps, each of `batch_size` images,
    the attack's preparation first. Raises UserError for options that don't fit the images, or a loss not finite.
    """
    device = training.images.device
    torch.manual_seed(derived_seed(options.seed, 0))
    model = build().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]  # biases and BatchNorm
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": options.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=0.0, momentum=options.momentum, nesterov=True,
    )  # fmt: skip
    attack.to(device)
    nets = list(attack.parameters())
    trainer = torch.optim.Adam(nets, lr=attack.lr, betas=(0.5, 0.9)) if nets else None
    n = len(training.labels)
    per_epoch = n // options.batch_size
    if per_epoch == 0:
        raise UserError(f"train.batch_size={options.batch_size} is more than the {n} training images; lower it")
    if options.crop >= training.images.shape[-1]:
        raise UserError(
            f"train.crop={options.crop} is no border for images of {training.images.shape[-1]} pixels; lower it"
        )
    sizes = [size for size, epochs in zip(options.sizes, options.epochs, strict=True) for _ in range(epochs)]
    steps = per_epoch * len(sizes)  # of the network; those of the attack's preparation are numbered below 0
    first, rows, loss_sum, seconds = -attack.preparation, [], 0.0, 0.0
    if state := read_state(checkpoint, device):
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        attack.load_state_dict(state["attack"])
        if trainer:
            trainer.load_state_dict(state["trainer"])
        first, rows, loss_sum, seconds = state["step"], state["rows"], state["loss_sum"], state["seconds"]

    def save(step: int):
        state = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "attack": attack.state_dict(),
            "trainer": trainer.state_dict() if trainer else None,
            "step": step,
            "rows": rows,
            "loss_sum": loss_sum,
            "seconds": seconds,
        }
        buffer = io.BytesIO()  # torch hides what the system says of a full disk
        torch.save(state, buffer)
        save_atomically(checkpoint, lambda path: path.write_bytes(summed(buffer.getvalue())))

    def images_at(step: int) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Which training images a step takes, and its crops and flips."""
        index = order[step % per_epoch * options.batch_size :][: options.batch_size].to(device)
        border, generator = options.crop, keyed(options.seed, 2, *([step] if step >= 0 else [-step, 1]))
        return index, partial(augment, border=border, flip=options.flip, generator=generator)

    def prepare(step: int) -> None:
        """One step of what the attack trains beforehand, in a cycle of its own."""
        assert trainer
        index, crop = images_at(step)
        loss = attack.prepare(crop(training.pixels(index)))
        set_rate(trainer, one_cycle(step + attack.preparation, attack.preparation, attack.lr, options.warmup))
        trainer.zero_grad(set_to_none=True)
        loss.backward()
        trainer.step()
        if not finite(loss, *nets):
            steps = f"step {step + attack.preparation + 1} of {attack.preparation}"
            raise UserError(f"the attack's preparation is not finite in its {steps}; lower attack.lr")

    def learn(step: int) -> float:
        """One step of the network, and of what the attack trains; the loss of classification."""
        index, crop = images_at(step)
        given = attack.batch(training.pixels(index), training.labels[index], index, crop, keyed(options.seed, 4, step))
        x = training.normalised(given.x)
        if x.shape[-1] != sizes[epoch]:
            x = F.interpolate(x, size=(sizes[epoch],) * 2, mode="bilinear", antialias=True)
        torch.manual_seed(derived_seed(options.seed, 3, step))  # dropout
        with torch.autocast(device.type, torch.bfloat16, enabled=options.bf16):
            logits = model(x)
        loss = F.cross_entropy(logits.float(), given.y, label_smoothing=options.label_smoothing)
        rates = [(optimizer, options.lr), *([(trainer, attack.lr)] if trainer else [])]
        for one, peak in rates:
            set_rate(one, one_cycle(step, steps, peak, options.warmup))
            one.zero_grad(set_to_none=True)
        (loss if given.penalty is None else loss + given.penalty).backward()
        for one, _ in rates:
            one.step()
        if not finite(loss):  # images that are not finite come from the attack's nets
            raise UserError(
                f"the loss is not finite in epoch {epoch + 1}; lower {'train' if finite(given.x) else 'attack'}.lr"
            )
        return loss.item()

    order, order_epoch = torch.empty(0), None
    tick = saved = time.monotonic()
    for step in progress(iter(range(first, steps)), first + attack.preparation, steps + attack.preparation):
        epoch = step // per_epoch
        if epoch != order_epoch:
            key = (epoch,) if epoch >= 0 else (-epoch, 1)  # seeds are made of whole numbers from 0
            order, order_epoch = torch.randperm(n, generator=keyed(options.seed, 1, *key)), epoch
            model.train()
        if step < 0:
            prepare(step)
        else:
            loss_sum += learn(step)
        now = time.monotonic()
        if step >= 0 and (step + 1) % per_epoch == 0:
            due = (epoch + 1) % options.test_every == 0 or step + 1 == steps
            nothing: dict[str, float] = dict.fromkeys(METRICS, math.nan)
            found = measured(model, test, options.bf16, attack) if due else nothing
            seconds += time.monotonic() - tick
            rate = optimizer.param_groups[0]["lr"]
            rows.append({"epoch": epoch + 1, "loss": loss_sum / per_epoch, **found, "lr": rate, "seconds": seconds})
            loss_sum, seconds, tick = 0.0, 0.0, time.monotonic()
            save(step + 1)
            saved = tick
        elif now - saved > options.save_every:
            seconds, tick, saved = seconds + now - tick, now, now
            save(step + 1)
    return model.eval(), rows
