import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch; also for the processes that tests start

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from pipeline import cli
from tests import tiny


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def made(self) -> list[Path]:
        return [Path(line) for line in self.out.splitlines()]

    @property
    def complaint(self) -> str:
        return self.err.strip().splitlines()[-1]


@pytest.fixture
def run(capsys, tmp_path) -> Callable[..., Ended]:
    """The command line, in this process: run("seed=1", ...) with results below tmp_path."""

    def call(*args: str, output: Path | None = None, **more: Any) -> Ended:
        GlobalHydra.instance().clear()
        device = [] if any("run.device" in arg for arg in args) else ["run.device=cpu"]
        code = 0
        try:
            cli.main([f"run.output={output or tmp_path / 'outputs'}", *device, *args], **more)
        except SystemExit as end:
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
            code = end.code if isinstance(end.code, int) else 1
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return call


@pytest.fixture
def cell(run, tmp_path) -> Callable[..., Ended]:
    """The command line on the tiny network and five tiny images."""
    folder = tiny.images(tmp_path / "images")
    return lambda *args, **more: run(*tiny.OWN, "data=folder", f"data.root={folder}", *args, **more)


@pytest.fixture
def checkpoint(tmp_path) -> str:
    """Weights of the tiny network."""
    torch.save(tiny.network().state_dict(), tmp_path / "w.pt")
    return str(tmp_path / "w.pt")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real images and really trained weights, where they are at hand."""
    folder = os.environ.get("PIPELINE_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("PIPELINE_TEST_DATA does not point to a folder of real images and weights")
    return Path(folder)


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)
