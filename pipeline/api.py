"""The Python API, for a network of your own: trace it, explain with a rule, run a cascade."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from enum import Enum
from operator import index
from typing import Any, get_type_hints

import pandas as pd
import torch
import yaml
from torch import Tensor

from pipeline.engine import walk
from pipeline.engine.network import Network, trace
from pipeline.engine.rules import RULES, Activation, Gbp, Method
from pipeline.errors import UserError
from pipeline.files import CONF
from pipeline.measures.maps import alignment

__all__ = ["attribute", "cascade", "explained_by_filter", "rule", "trace"]


def rule(name: str, **settings: Any) -> Method:
    """A rule by name, with the settings of conf/rule/<name>.yaml where none are given: rule("lrp", add_by="zplus").

    Raises UserError for a name or a setting that there is not, and for a value of another type; ValueError for a value
    out of range.
    """
    if name not in RULES:
        raise UserError(f"there is no rule '{name}'; choose one of {', '.join(RULES)}")
    values = {**defaults(name), **settings}
    types = get_type_hints(RULES[name])
    unknown = [key for key in values if key not in types]
    if unknown:
        raise UserError(f"the rule {name} has no setting '{unknown[0]}'; it has {', '.join(types) or 'none'}")
    missing = [key for key, value in values.items() if isinstance(value, str) and value == "???"]
    if missing:
        raise UserError(f"the rule {name} lacks the setting '{missing[0]}'; give rule({name!r}, {missing[0]}=...)")
    return RULES[name](**{key: converted(value, types[key], f"{name}.{key}") for key, value in values.items()})


def defaults(name: str) -> dict[str, Any]:
    """The settings of conf/rule/<name>.yaml, as they stand there."""
    return yaml.safe_load((CONF / "rule" / f"{name}.yaml").read_text()) or {}


def number(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError
    return float(value)  # numpy's too


def truth(value: Any) -> bool:
    if value not in (0, 1):
        raise TypeError
    return bool(value)


def converted(value: Any, to: Any, where: str) -> Any:
    """A setting in its declared type. Raises UserError if it can't be that."""
    if isinstance(to, type) and issubclass(to, Enum):
        convert, wanted = to, f"one of {', '.join(str(member.value) for member in to)}"
    else:
        convert, wanted = {float: number, int: index, bool: truth}.get(to, lambda v: v), f"of type {to.__name__}"
    try:
        return convert(value)
    except (TypeError, ValueError):
        raise UserError(f"{where} must be {wanted}, not {value!r}") from None


def attribute(
    network: Network,
    x: Tensor,
    by: str | Method = "gbp",
    *,
    target: Tensor | None = None,
    bottom: bool = False,
    layer: int | None = None,
) -> Tensor:
    """The attribution map of each image, of x's shape (B, C, H, W).

    by: a rule or its name; target: (B,) classes to explain, by default the decisions; bottom: with the method's bottom
    process, as published (without it, maps are comparable: Table I's "W/O B"); layer: for "activation", the layer l
    whose A_l is sent down, with GBP below it. Raises UserError if the rule can't explain this network, and for a target
    that is not a class of it for each image.
    """
    record = network.forward(x)
    method = rule(by) if isinstance(by, str) else by
    if isinstance(method, Activation):
        if layer is None or not 1 <= layer <= network.depth:
            raise UserError(f"the activation needs layer=l, a number from 1 to {network.depth}")
        return walk.walk(record, record.activation(layer), lambda _: Gbp(), top=layer)
    r = walk.attribute(record, method, None if target is None else explained(target, record.logits), bottom)
    if bool(r.isnan().any()):
        raise UserError("an explained class has logit 0, so relevance 1 has no gradient form; set start_at=logit")
    return r


def explained(target: Any, logits: Tensor) -> Tensor:
    """`target`, a tensor or what makes one, as (B,) int64. Raises UserError unless it is a class of `logits` (B, K) for
    each image."""
    images, classes = logits.shape
    wrong = UserError(f"target must be a class from 0 to {classes - 1} for each of the {images} images")
    try:
        target = torch.as_tensor(target, device=logits.device)
    except (TypeError, ValueError, RuntimeError):
        raise wrong from None
    if target.shape != (images,) or bool(((target != target.long()) | (target < 0) | (target >= classes)).any()):
        raise wrong
    return target.long()


def cascade(
    network: Network,
    x: Tensor,
    by: Iterable[str | Method] = ("gbp", "rectgrad", "lrp", "activation"),
    *,
    target: Tensor | None = None,
) -> pd.DataFrame:
    """Input alignment (1) under cascade substitution (19): a row per rule, image (its position in x) and N = 0..L.

    The column rule holds names: a rule given as an object is named with its settings that are not the default ones,
    "rectgrad quantile=0.8". Raises UserError for an external attribution, and for a target that is not a class of the
    network for each image.
    """
    by = list(by)
    names, record = labels(by), network.forward(x)
    rules = [rule(r) if isinstance(r, str) else r for r in by]
    rows = [
        {"rule": names[i], "image": b, "n": n, "alignment": float(value)}
        for i, n, r in walk.cascade(record, rules, None if target is None else explained(target, record.logits))
        for b, value in enumerate(alignment(r, record.x))
    ]
    table = pd.DataFrame(rows, columns=["rule", "image", "n", "alignment"])
    return table.sort_values(["rule", "image", "n"], ignore_index=True)


def explained_by_filter(
    network: Network,
    x: Tensor,
    by: str | Method = "gbp",
    *,
    target: Tensor | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """How much of each map one fixed linear filter of the image explains: the columns of experiment=filter (README), a
    row per image of x (B, C, H, W), whose name is its position.

    by: a rule, anyone's attribution as rule("external", call="package.module:function"), or a name; target: (B,)
    classes to explain, by default the decisions; settings: of conf/experiment/filter.yaml. The ridge filter is fitted
    to the maps of the other images in x: of one image alone its columns are NaN. Raises UserError for a network that
    has not one first layer on the pixels, and for a target that is not a class of it for each image.
    """
    from pipeline.experiments import filter as filters  # which need this module
    from pipeline.experiments.targets import Target
    from pipeline.images.batches import Batch, Handed

    usual = yaml.safe_load((CONF / "experiment" / "filter.yaml").read_text())
    if unknown := settings.keys() - usual:
        raise UserError(f"explained_by_filter has no setting '{min(unknown)}'; it has {', '.join(usual)}")
    labels = torch.full((len(x),), -1) if target is None else explained(target, network.forward(x).logits)
    given = Batch(x, tuple(map(str, range(len(x)))), labels)
    asked = Target("decision" if target is None else "label", lambda: network)
    method = rule(by) if isinstance(by, str) else by
    (found,) = filters.run(network, Handed(given), [method], asked, filters.Options(**usual | settings))
    return found.table


def labels(by: Sequence[str | Method]) -> list[str]:
    """A name for each rule, no two alike: the second gbp is "gbp (2)". A str keeps its own."""
    named = [r if isinstance(r, str) else label(r) for r in by]
    seen: Counter[str] = Counter()
    found: dict[int, str] = {}
    for i in sorted(range(len(by)), key=lambda i: not isinstance(by[i], str)):
        seen[named[i]] += 1
        found[i] = named[i] if seen[named[i]] == 1 else f"{named[i]} ({seen[named[i]]})"
    return [found[i] for i in range(len(by))]


def label(method: Method) -> str:
    """The name by which the rule differs in the fewest settings from conf/rule/<name>.yaml, and those settings."""
    fields = dataclasses.fields(method) if dataclasses.is_dataclass(method) else ()
    values = {field.name: plain(getattr(method, field.name)) for field in fields}
    usual = {name: defaults(name) for name, cls in RULES.items() if cls is type(method)}
    changed = {
        name: {key: value for key, value in values.items() if value != settings.get(key)}
        for name, settings in (usual or {type(method).__name__: {}}).items()
    }
    name = min(changed, key=lambda name: len(changed[name]))
    return " ".join([name, *(f"{key}={value}" for key, value in changed[name].items())])


def plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value
