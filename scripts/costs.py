"""What README says of time and memory, in a block of its own.

    python scripts/costs.py [--into FOLDER] [fig2] [figures] [claims] [report] [benchmark]

Measures these on this machine, the commands in the demo profile, from nothing and once more from the store, keeps what
it found beside README's picture and writes the block anew from there. Nothing else should run meanwhile.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from pipeline.run.provenance import git_state
from scripts.blocks import README, written

ROOT = README.parent
KEPT, BENCHMARK = ROOT / ".github" / "costs.csv", ROOT / ".github" / "benchmark.txt"
MARKS = "<!-- costs: scripts/costs.py -->", "<!-- end of costs -->"
COMMANDS = {"fig2": "figure=fig2", "figures": "figure=all", "claims": "figure=claims", "report": "report"}


def seconds(command: str, store: Path) -> float:
    """Of one run, which must succeed; what it says goes to the terminal."""
    start = time.monotonic()
    line = [sys.executable, "-m", "pipeline", COMMANDS[command], "profile=demo", f"run.output={store}"]
    subprocess.run(line, cwd=ROOT, check=True, stdout=sys.stderr)
    return time.monotonic() - start


def measured(command: str, folder: Path, known: dict[str, float]) -> dict[str, object]:
    """Seconds from nothing and again from the store. The report goes on from the claims of the same call (`known`):
    its time has theirs in it, as if it had computed them."""
    base = "claims" if command == "report" and "claims" in known else None
    store = folder / (base or command)
    known[command] = seconds(command, store) + (known[base] if base else 0.0)
    again = seconds(command, store)
    on = f"{torch.get_num_threads()} cores ({torch.backends.cpu.get_cpu_capability()})"
    commit = (git_state()[0] or "")[:7]
    return {
        "command": command,
        "nothing": round(known[command], 1),
        "again": round(again, 1),
        "on": on,
        "commit": commit,
    }


def duration(taken: float) -> str:
    """1 min 5 s; from ten minutes on without seconds."""
    if taken >= 600:
        return f"{taken / 60:.0f} min"
    minutes, left = divmod(round(taken), 60)
    return f"{minutes} min {left} s" if minutes else f"{left} s"


def costs(kept: pd.DataFrame, benchmark: str) -> str:
    """The table of times known, then what scripts/benchmark.py printed."""
    rows = kept.set_index("command").loc[[name for name in COMMANDS if name in set(kept["command"])]].itertuples()
    lines = [f"| `make {row.Index}` | {duration(row.nothing)} | {duration(row.again)} | {row.on} |" for row in rows]
    head = ["| in the demo profile | from nothing | again, from the store | on |", "|---|---|---|---|"]
    return "\n".join([*head, *lines, "", "```text", benchmark.rstrip(), "```"])


def keep(row: dict[str, object]) -> None:
    new = pd.DataFrame([row])
    if KEPT.exists():
        old = pd.read_csv(KEPT)
        new = pd.concat([old[old["command"] != row["command"]], new])
    new.to_csv(KEPT, index=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", metavar="COST", help="none: README's block alone, from what is known")
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="leave what is computed and drawn there")
    given = parser.parse_args()
    if unknown := [name for name in given.what if name not in (*COMMANDS, "benchmark")]:
        parser.error(f"there is no {unknown[0]}; choose from {', '.join([*COMMANDS, 'benchmark'])}")
    if given.into and given.into.exists() and any(given.into.iterdir()):
        parser.error(f"{given.into} has files in it; name an empty folder")
    if "benchmark" in given.what:
        line = [sys.executable, "scripts/benchmark.py"]
        BENCHMARK.write_text(subprocess.run(line, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    with tempfile.TemporaryDirectory() as temporary:
        known: dict[str, float] = {}
        for command in [command for command in COMMANDS if command in given.what]:
            keep(measured(command, (given.into or Path(temporary)).absolute(), known))
    README.write_text(written(README.read_text(), MARKS, costs(pd.read_csv(KEPT), BENCHMARK.read_text())))


if __name__ == "__main__":
    main()
