"""Experiments: functions from a network and images to rows. They never write; runner.py does.

To add one: write `run` in a module of its own, enter it in EXPERIMENTS, add conf/experiment/<name>.yaml.
"""

from pipeline.cell import Experiment
from pipeline.experiments import cascade, nulls, train, weight_stats

EXPERIMENTS = {
    "cascade": Experiment(cascade.run, cascade.Options, version=1),
    "nulls": Experiment(nulls.run, nulls.Options, version=1),
    "weight_stats": Experiment(weight_stats.run, weight_stats.Options, version=1),
    "train": Experiment(train.run, train.TrainOptions, version=1),
}
