"""Files of weights: read as data only, checked before anything is loaded, every complaint a sentence."""

import pickle
from pathlib import Path
from typing import Any
from urllib.error import URLError

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.files import first_line


def read_checkpoint(path: str, setting: str = "weights.path") -> dict[str, Tensor]:
    """A state dict from a safetensors file or a torch file, read as data only. Raises UserError if that is not what
    it is."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"there is no checkpoint at {setting}={path}; set it to a safetensors file or a state dict")
    try:
        is_safetensors = file.suffix == ".safetensors"
        state: Any = (
            safetensors.torch.load_file(file)
            if is_safetensors
            else torch.load(file, map_location="cpu", weights_only=True)
        )
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise UserError(
            f"the checkpoint {path} can't be read as data ({first_line(error)}); save it with safetensors, or "
            "torch.save(model.state_dict())"
        ) from None
    if isinstance(state, dict):
        for key in ("state_dict", "model"):  # common wrappings
            state = state[key] if isinstance(state.get(key), dict) else state
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"the checkpoint {path} holds no state dict; save model.state_dict()")
    return {k.removeprefix("module."): v for k, v in state.items()}


def load_complete(
    module: nn.Module, state: dict[str, Tensor], source: str, missing_is_fine: tuple[str, ...] = ()
) -> None:
    """Load a state dict; every shape must fit and nothing be missing, superfluous or not finite, else UserError
    names the first three."""
    expected = module.state_dict()
    wrong = [
        f"{k} {tuple(state[k].shape)} instead of {tuple(v.shape)}"
        for k, v in expected.items()
        if k in state and state[k].shape != v.shape
    ]
    unknown = [k for k in state if k not in expected]
    missing = [
        k
        for k in expected
        if k not in state and not k.startswith(missing_is_fine or ("\0",)) and not k.endswith("num_batches_tracked")
    ]
    broken = [k for k, v in state.items() if v.is_floating_point() and not bool(v.isfinite().all())]
    hint = "give a file made for this model"
    layers = ", ".join(dict.fromkeys(k.rsplit(".", 1)[0] for k in missing))
    partial_hint = (
        f"give a complete file, or name these layers in weights.randomised=[...] to draw them at random: {layers}"
    )
    for problem, keys, what in (
        ("wrong shapes", wrong, hint),
        ("parameters that the model has not", unknown, hint),
        ("no values for", missing, partial_hint),
        ("NaN or infinite values", broken, hint),
    ):
        if keys:
            raise UserError(
                f"the checkpoint {source} has {problem}: "
                f"{', '.join(keys[:3])}{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}; {what}"
            )
    module.load_state_dict(state, strict=False)


def download(weights) -> dict[str, Tensor]:
    """torchvision's state dict from its cache, or from the network. Raises UserError that names the file and its
    place."""
    name, folder = weights.url.rsplit("/", 1)[1], Path(torch.hub.get_dir()) / "checkpoints"
    try:
        return weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except (URLError, OSError) as error:
        raise UserError(
            f"the weights {name} can't be downloaded ({first_line(error)}); put the file into {folder}, or set "
            "weights.path to it"
        ) from None
    except (RuntimeError, EOFError, pickle.UnpicklingError, ValueError) as error:
        raise UserError(
            f"the weights {folder / name} can't be read ({first_line(error)}); remove the file so that it is "
            "downloaded again"
        ) from None
