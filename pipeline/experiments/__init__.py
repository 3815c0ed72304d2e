"""Experiments: functions from a network and images to rows. They never write; runner.py does.

To add one: write `run` and `Options` in a module of its own, enter it in EXPERIMENTS, add conf/experiment/<name>.yaml.
"""

from typing import Any

from pipeline.engine.interface import Rule
from pipeline.engine.rules import Activation, External
from pipeline.experiments import (
    attribute,
    backdoor,
    cascade,
    directions,
    extremes,
    failure,
    filter,
    geometry,
    highlight,
    kis,
    likeness,
    memory,
    midalign,
    nfr,
    noisy_start,
    nulls,
    occlusion,
    rank1,
    specific,
    theorem1,
    theorem2,
    train,
    verify,
    weight_stats,
)
from pipeline.experiments.interface import Dtype, Experiment


def experiment(module: Any, version: int, **more: Any) -> Experiment:
    """The module's `run` and `Options`; more: fields of Experiment."""
    return Experiment(module.run, module.Options, version, **more)


EXPERIMENTS = {
    "attribute": experiment(attribute, version=3, takes=(Rule, Activation, External), picture="attribute"),
    "cascade": experiment(cascade, version=3, takes=(Rule, Activation, External)),
    "directions": experiment(directions, version=1),
    "nulls": experiment(nulls, version=3, least_images=lambda options: 2),
    "weight_stats": experiment(weight_stats, version=2),
    "kis": experiment(kis, version=1, takes=(Rule, External), least_images=kis.least_images),
    "backdoor": experiment(backdoor, version=2, takes=(Rule, External), least_images=backdoor.least_images),
    "highlight": experiment(highlight, version=1, takes=(Rule, Activation, External)),
    "train": experiment(train, version=2),
    "extremes": experiment(extremes, version=2),
    "failure": experiment(failure, version=1, picture="fig7"),
    "filter": experiment(filter, version=2, takes=(Rule, Activation, External), picture="filter_maps", batch=0.5),
    "geometry": experiment(geometry, version=1),
    "theorem1": experiment(theorem1, version=3),
    "theorem2": experiment(theorem2, version=3),
    "nfr": experiment(nfr, version=1, objection=nfr.objection, dtype=Dtype.float64),
    "likeness": experiment(likeness, version=2, takes=(Rule, Activation, External), least_images=likeness.least_images),
    "memory": experiment(memory, version=1, least_images=lambda options: 2),
    "midalign": experiment(midalign, version=1),
    "noisy_start": experiment(noisy_start, version=1),
    "specific": experiment(specific, version=1, takes=(Rule, Activation, External), least_images=lambda options: 2),
    "occlusion": experiment(occlusion, version=1, takes=(Rule, Activation, External)),
    "rank1": experiment(rank1, version=1),
    "verify": experiment(verify, version=1, dtype=Dtype.float64, fresh=True, report=verify.report),
}
