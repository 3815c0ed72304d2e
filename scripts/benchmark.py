"""How long one sweep of cascade substitution takes, against the plain way, on this machine: VGG16 with random weights.

    python scripts/benchmark.py [--rule gbp] [--size 224] [--batch 2] [--repeats 5] [--threads N] [--device cpu]

The sweep yields the maps of all N = 0..16 in one descent. The plain way runs one backward pass for each N over one
retained forward pass: for gbp through torch.autograd with hooks on torchvision's module, in its faster memory format;
for the other rules with this engine, one N at a time. Both sides count their forward pass and every map's alignment.
Single maps are compared with Captum and Zennit where they are installed. The last line is the ratio.
"""

import argparse
import contextlib
import multiprocessing
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from pipeline.engine.interface import Rule
from pipeline.engine.lrp import Add, AlphaBeta, FirstLayer, Start
from pipeline.engine.network import Network, trace
from pipeline.engine.rules import GRAD, Gbp, RectGrad
from pipeline.engine.walk import attribute, cascade, one_hot, walk
from pipeline.measures.maps import alignment

RULES: dict[str, Rule] = {
    "gbp": Gbp(),
    "rectgrad": RectGrad(0.9),
    "lrp": AlphaBeta(
        alpha=1.0, first_layer=FirstLayer.plain, bottom=FirstLayer.split, start_at=Start.unit, add_by=Add.proportional
    ),
}


def vgg16(device: str) -> nn.Module:
    torch.manual_seed(0)
    model = torchvision.models.vgg16(weights=None).eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return model.to(device)


def sweep(network: Network, x: Tensor, rule: Rule) -> dict[int, Tensor]:
    """Alignment of R_N by N, each (B,)."""
    return {n: alignment(r, x) for _, n, r in cascade(network.forward(x), [rule])}


def one_by_one(network: Network, x: Tensor, rule: Rule) -> dict[int, Tensor]:
    """The same, each N walked from the top by itself over one record."""
    record, depth, found = network.forward(x), network.depth, {}
    for n in range(depth + 1):
        r = rule.start(one_hot(record), record.logits) if n else one_hot(record)
        found[n] = alignment(walk(record, r, lambda layer, top=depth - n: rule if layer > top else GRAD, depth), x)
    return found


def hooked(model: nn.Module, memory_format: torch.memory_format) -> Callable[[Tensor], dict[int, Tensor]]:
    """Guided BackProp in the top N layers by backward hooks, N = 0..16, over one retained forward pass."""
    model = model.to(memory_format=memory_format)
    relus = [module for module in model.modules() if isinstance(module, nn.ReLU)]
    depth = len(relus) + 1  # the classifier has none
    guided = set()
    for relu in relus:
        relu.register_full_backward_hook(
            lambda module, grad_in, grad_out: (grad_in[0].clamp(min=0),) if module in guided else None
        )

    def run(x: Tensor) -> dict[int, Tensor]:
        x = x.detach().to(memory_format=memory_format).requires_grad_()
        top, found = model(x).max(1).values.sum(), {}
        for n in range(depth + 1):
            guided.clear()
            guided.update(relus[depth - n :])
            found[n] = alignment(torch.autograd.grad(top, x, retain_graph=True)[0], x.detach())
        return found

    return run


def seconds(call: Callable[[], object], device: str) -> float:
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - start


def alternate(calls: dict[str, Callable[[], object]], repeats: int, device: str) -> dict[str, list[float]]:
    """Seconds of each call, taken in turn so that what else runs on the machine touches all alike. One warm-up each."""
    rounds = [{name: seconds(call, device) for name, call in calls.items()} for _ in range(repeats + 1)]
    return {name: [times[name] for times in rounds[1:]] for name in calls}


def multiply_adds(network: Network, x: Tensor) -> tuple[int, int]:
    """Of one sweep of one rule, with its forward pass: the L - l + 1 branches and the chain through layer l; and of
    its L + 1 maps one at a time, over one forward pass."""
    record, shared, apart = network.forward(x), 0, 0
    for op in network.layers:
        # at the ends the chain is one of the branches
        used = network.depth - op.unit + 2 - (op.unit in (1, network.depth))
        each = record.values[op.output].numel() * op.weight[0].numel()
        shared, apart = shared + (used + 1) * each, apart + (network.depth + 2) * each
    return shared, apart


def convolution_rate(device: str) -> float:
    """Multiply-adds per second of a large convolution, the best of six."""
    kind = torch.channels_last if device == "cpu" else torch.contiguous_format
    x = torch.randn(8, 256, 56, 56, device=device).to(memory_format=kind)
    w = torch.randn(256, 256, 3, 3, device=device).to(memory_format=kind)
    return x.numel() * 256 * 9 / min(seconds(lambda: nn.functional.conv2d(x, w, padding=1), device) for _ in range(6))


def peak_growth(rule: str, size: int, batch: int, device: str, threads: int | None) -> int:
    """Bytes by which one sweep raises the peak over what the model holds; to be run in a process of its own."""
    torch.set_num_threads(threads or torch.get_num_threads())
    network, x = trace(vgg16(device)), torch.randn(batch, 3, size, size, device=device)
    peak = (
        torch.cuda.max_memory_allocated
        if device == "cuda"
        else lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    )
    unit = 1 if sys.platform == "darwin" else 1024
    if device == "cuda":  # forget the peak of building the model
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")
    held = peak()
    sweep(network, x, RULES[rule])
    return peak() - held


def single_maps(model: nn.Module, network: Network, x: Tensor) -> dict[str, dict[str, Callable[[], object]]]:
    """One map of one rule by this program and by the libraries that are installed; each with its forward pass."""
    target = network.forward(x).logits.argmax(1)
    ours = lambda rule: lambda: attribute(network.forward(x), RULES[rule], target)  # noqa: E731
    calls: dict[str, dict[str, Callable[[], object]]] = {rule: {"this program": ours(rule)} for rule in ("gbp", "lrp")}
    with contextlib.suppress(ImportError):
        from captum.attr import GuidedBackprop as Captum

        captum = Captum(model)
        calls["gbp"]["Captum"] = lambda: captum.attribute(x.clone().requires_grad_(), target=target)
    with contextlib.suppress(ImportError):
        from zennit.attribution import Gradient
        from zennit.composites import GuidedBackprop, LayerMapComposite
        from zennit.rules import Pass, ZPlus
        from zennit.types import Activation, Convolution, Linear

        def zennit(composite):
            with Gradient(model=model, composite=composite) as attributor:
                return attributor(x.clone().requires_grad_(), nn.functional.one_hot(target, 1000).to(x))

        calls["gbp"]["Zennit"] = lambda: zennit(GuidedBackprop())
        calls["lrp"]["Zennit"] = lambda: zennit(
            LayerMapComposite([(Activation, Pass()), ((Convolution, Linear), ZPlus())])
        )
    return calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rule", choices=sorted(RULES), default="gbp")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads or torch.get_num_threads())
    warnings.filterwarnings("ignore")  # Captum's, about its hooks
    device, rule = args.device, RULES[args.rule]
    name = (
        torch.cuda.get_device_name()
        if device == "cuda"
        else f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    )
    print(
        f"torch {torch.__version__}, {device} ({name}); VGG16 with random weights, {args.rule}, batch {args.batch}, "
        f"{args.size} px, float32"
    )

    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        growth = pool.submit(peak_growth, args.rule, args.size, args.batch, device, args.threads).result()

    model, x = vgg16(device), torch.randn(args.batch, 3, args.size, args.size, device=device)
    network = trace(model)
    sides: dict[str, Callable[[], dict[int, Tensor]]] = {"one N at a time": lambda: one_by_one(network, x, rule)}
    if args.rule == "gbp":
        formats = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
        sides = {f"backward passes ({name})": partial(hooked(vgg16(device), kind), x) for name, kind in formats.items()}
    mine = sweep(network, x, rule)
    differ = max(float((mine[n] - theirs).abs().max()) for run in sides.values() for n, theirs in run().items())
    first = {side: seconds(run, device) for side, run in sides.items()}
    side = min(first, key=first.__getitem__)
    print(
        f"alignments of the two sides differ by at most {differ:.1e}; "
        + ", ".join(f"{name} {t:.2f} s" for name, t in first.items())
    )

    times = alternate({"sweep": lambda: sweep(network, x, rule), side: sides[side]}, args.repeats, device)
    middle = {name: statistics.median(t) for name, t in times.items()}
    shared, apart = multiply_adds(network, x)
    rate, best = shared / middle["sweep"], convolution_rate(device)
    print(
        f"multiply-adds per image: sweep {1e-9 * shared / len(x):.0f} G, one N at a time {1e-9 * apart / len(x):.0f} G"
    )
    print(f"sweep {middle['sweep']:.2f} s, {side} {middle[side]:.2f} s (medians of {args.repeats})")
    print(
        f"sweep: {2e-9 * rate:.0f} GFLOP/s, {rate / best:.0%} of a large convolution's {2e-9 * best:.0f}; "
        f"peak memory over the model's {growth / 1e9:.2f} GB"
    )
    for kind, calls in single_maps(model, network, x).items():
        found = alternate(calls, args.repeats, device)
        ratio = {
            name: statistics.median(a / b for a, b in zip(found["this program"], t, strict=True))
            for name, t in found.items()
        }
        print(
            f"one map, {kind} (ratio this program / it): "
            + ", ".join(f"{name} {statistics.median(t):.2f} s ({ratio[name]:.2f})" for name, t in found.items())
        )
    ratios = [a / b for a, b in zip(times["sweep"], times[side], strict=True)]
    print(f"ratio sweep / {side}: {statistics.median(ratios):.3f} (min {min(ratios):.3f}, max {max(ratios):.3f})")


if __name__ == "__main__":
    main()
