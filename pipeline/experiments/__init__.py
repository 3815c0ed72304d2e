"""Experiments: functions from a network and images to rows. They never write; runner.py does.

To add one: write `run` in a module of its own, enter it in EXPERIMENTS, add conf/experiment/<name>.yaml.
"""

from pipeline.engine.rules import Activation, External, Rule
from pipeline.experiments import (
    attribute,
    cascade,
    directions,
    extremes,
    failure,
    geometry,
    kis,
    nfr,
    nulls,
    rank1,
    theorem1,
    theorem2,
    train,
    verify,
    weight_stats,
)
from pipeline.experiments.interface import Dtype, Experiment

EXPERIMENTS = {
    "attribute": Experiment(
        attribute.run, attribute.Options, version=1, takes=(Rule, Activation, External), picture="attribute"
    ),
    "cascade": Experiment(cascade.run, cascade.Options, version=2, takes=(Rule, Activation, External)),
    "directions": Experiment(directions.run, directions.Options, version=1),
    "nulls": Experiment(nulls.run, nulls.Options, version=1, least_images=lambda options: 2),
    "weight_stats": Experiment(weight_stats.run, weight_stats.Options, version=1),
    "kis": Experiment(kis.run, kis.Options, version=1, takes=(Rule, External), least_images=kis.least_images),
    "train": Experiment(train.run, train.TrainOptions, version=1),
    "extremes": Experiment(extremes.run, extremes.Options, version=1),
    "failure": Experiment(failure.run, failure.Options, version=1, picture="fig7"),
    "geometry": Experiment(geometry.run, geometry.Options, version=1),
    "theorem1": Experiment(theorem1.run, theorem1.Options, version=2),
    "theorem2": Experiment(theorem2.run, theorem2.Options, version=1),
    "nfr": Experiment(nfr.run, nfr.Options, version=1, objection=nfr.objection, dtype=Dtype.float64),
    "rank1": Experiment(rank1.run, rank1.Options, version=1),
    "verify": Experiment(verify.run, verify.Options, version=1, dtype=Dtype.float64, fresh=True, report=verify.report),
}
