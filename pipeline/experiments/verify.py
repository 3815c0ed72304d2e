"""Every rule on this network against autograd, Captum, Zennit and literal transcriptions: the largest errors, in
float64."""

from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from pipeline.engine.graph import BATCH_NORM
from pipeline.engine.network import Network
from pipeline.engine.rules import RULES, External
from pipeline.errors import UserError
from pipeline.experiments.interface import Result
from pipeline.images.batches import Preprocessing
from pipeline.networks.catalogue import Model, traced
from pipeline.oracles.case import Case, Check, NotComparable, Pair
from pipeline.oracles.checks import checks
from pipeline.weights.draw import set_parameter

COLUMNS = [
    "rule", "setting", "reference", "dtype", "images", "side", "error_max", "error_l2", "sites", "ok", "note",
]  # fmt: skip


@dataclass(frozen=True)
class Options:
    """images: how many; side: theirs in pixels, null for the model's own; biases: draw those that are all zero;
    tolerance: of both errors."""

    images: int
    side: int | None
    biases: bool
    tolerance: float

    def __post_init__(self):
        if self.images < 1 or self.tolerance <= 0:
            raise ValueError("images must be at least 1 and tolerance above 0")


def run(network: Network, model: Model, options: Options) -> list[Result]:
    """A row per rule, setting and reference: COLUMNS.

    error_max = max |a - b| / max |b| and error_l2 = |a - b| / |b|, the largest over the images and what is compared of
    them (`sites` numbers in all); ok: both below the tolerance, missing where nothing was compared, and then `note`
    says why. Images are noise, so no data is needed. Biases are drawn in `network` itself.
    """
    device = next(network.module.parameters()).device
    original = model.build().to(device, torch.float64).eval().requires_grad_(False)
    x = noise(model.preprocessing(), options, original, device)
    rows = []
    if draw_batch_norms(original):
        refolded = traced(model, original)
        folded = Check("forward", "BatchNorm folded", "module", forward)
        rows.append(row(folded, Case(refolded, original, refolded.forward(x)), options))
        del refolded
    if options.biases:
        draw_biases(network)
    put_weights(network, original)
    case = Case(network, original, network.forward(x))
    if bool((case.record.logits == 0).all(1).any()):
        raise UserError(
            "all the network's logits are zero for some image, so there is nothing to explain; choose other weights"
        )
    todo = [Check("forward", "", "module", forward), *checks(case)]
    known = {check.rule for check in todo}
    todo += [Check(name, "", "none", unknown) for name in RULES if name not in known and RULES[name] is not External]
    rows += [row(check, case, options) for check in tqdm(todo, desc="verify", unit="check", dynamic_ncols=True)]
    table = pd.DataFrame(rows).astype({"ok": "boolean"})
    order = {name: i for i, name in enumerate(["forward", *RULES])}
    return [Result(table.sort_values("rule", key=lambda rules: rules.map(order), kind="stable", ignore_index=True))]


def forward(case: Case) -> list[Pair]:
    return [(case.record.logits, case.original(case.x.clone()))]


def unknown(case: Case) -> list[Pair]:
    raise NotComparable("no independent implementation of this rule is known here")


# ---- the network and its images --------------------------------------------------------------------------------------


def noise(preprocessing: Preprocessing, options: Options, model: nn.Module, device: torch.device) -> Tensor:
    """Normalised pixels, uniform in their range, (B, C, H, W) float64; of the model's own size where it does not take
    `side`."""
    mean, std = (
        torch.tensor(list(v), dtype=torch.float64).view(-1, 1, 1) for v in (preprocessing.mean, preprocessing.std)
    )
    side = min(options.side or preprocessing.crop, preprocessing.crop)

    def images(side: int) -> Tensor:
        pixels = torch.rand(
            options.images, len(mean), side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
        )
        return ((pixels - mean) / std).to(device)

    try:
        model(images(side))
    except (RuntimeError, ValueError):  # too small a map, or a linear layer that counts on another
        return images(preprocessing.crop)
    return images(side)


def draw_batch_norms(model: nn.Module) -> bool:
    """Give every BatchNorm statistics that change something; whether there was one."""
    generator = torch.Generator().manual_seed(0)
    found = [m for m in model.modules() if isinstance(m, BATCH_NORM)]
    for norm in found:
        for tensor, low, high in (
            (norm.running_mean, -1, 1),
            (norm.running_var, 0.5, 2),
            (norm.weight, 0.5, 1.5),
            (norm.bias, -1, 1),
        ):
            if tensor is not None:
                tensor.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))
    return bool(found)


@torch.no_grad()
def draw_biases(network: Network) -> None:
    """Biases that are all zero, or not there, become normal, a tenth of the layer's weights' norm: a sensible share of
    z."""
    generator = torch.Generator().manual_seed(0)
    for op in network.layers:
        module = op.layer
        if module.bias is None:
            module.bias = nn.Parameter(module.weight.new_zeros(len(module.weight)), requires_grad=False)
        if not module.bias.any():
            drawn = torch.randn(len(module.bias), generator=generator).to(module.bias)
            set_parameter(module, "bias", 0.1 * drawn * module.weight.flatten(1).norm(dim=1))


def put_weights(network: Network, original: nn.Module) -> None:
    """The network's own weights in the model as its author wrote it; BatchNorm, of which they hold what there was,
    becomes the identity."""
    for op in network.layers:
        layer: Any = original.get_submodule(op.where)
        layer.weight = nn.Parameter(op.weight.contiguous(), requires_grad=False)
        layer.bias = op.layer.bias
        if op.norm:
            original.set_submodule(op.norm, nn.Identity())


# ---- errors ----------------------------------------------------------------------------------------------------------


def row(check: Check, case: Case, options: Options) -> dict[str, Any]:
    found: dict[str, Any] = {"error_max": float("nan"), "error_l2": float("nan"), "sites": 0, "ok": None, "note": ""}
    try:
        errors = [error for a, b in check.pairs(case) for error in relative_errors(a, b)]
    except ImportError as error:
        found["note"] = f"not run: {error.name} is missing, pip install captum zennit"
    except NotComparable as error:
        found["note"] = f"not comparable: {error}"
    except UserError as error:
        found["note"] = f"refused: {error}"
    else:
        if errors:
            largest, l2, counts = zip(*errors, strict=True)
            ok = max(*largest, *l2) <= options.tolerance
            found |= {"error_max": max(largest), "error_l2": max(l2), "sites": sum(counts), "ok": ok}
        else:
            found["note"] = "not comparable: this network has no such step"
    return {
        "rule": check.rule,
        "setting": check.setting,
        "reference": check.reference,
        "dtype": "float64",
        "images": len(case.x),
        "side": case.x.shape[-1],
        **found,
    }


def relative_errors(a: Tensor, b: Tensor) -> list[tuple[float, float, int]]:
    """Of each sample: max |a - b| / max |b|, |a - b| / |b|, how many numbers. 0 where both are 0, infinite where b
    alone is, or a is not finite."""
    if a.shape != b.shape:
        return [(float("inf"), float("inf"), b.numel())]
    found = []
    for one, other in zip(a.detach().flatten(1), b.detach().flatten(1), strict=True):
        largest = relative((one - other).abs().max(), other.abs().max())
        found.append((largest, relative((one - other).norm(), other.norm()), one.numel()))
    return found


def relative(error: Tensor, scale: Tensor) -> float:
    return float(torch.where(error == 0, error, error / scale).nan_to_num(float("inf"), float("inf")))


def report(table: pd.DataFrame) -> tuple[str, str | None]:
    """The table as text, and a complaint if a row is not ok."""
    shown: Any = table[["rule", "setting", "reference", "error_max", "error_l2", "sites", "ok", "note"]].copy()
    for column in ("error_max", "error_l2"):
        shown[column] = shown[column].map(lambda v: "" if pd.isna(v) else f"{v:.1e}")
    shown["ok"] = ["-" if pd.isna(ok) else "yes" if ok else "NO" for ok in table["ok"]]
    errors = table.loc[table["ok"].notna(), ["error_max", "error_l2"]].to_numpy()
    wrong, compared = int((shown["ok"] == "NO").sum()), len(errors)
    text = shown.to_string(index=False, justify="left", max_colwidth=None)
    summary = (
        f"{compared} comparisons on {table['images'][0]} images of {table['side'][0]} px in float64, "
        f"{len(table) - compared} not run; largest error {errors.max():.1e}"
    )
    complaint = f"{wrong} of {compared} comparisons are off by more than the tolerance; see the rows that say NO"
    return f"{text}\n{summary}", complaint if wrong else None
