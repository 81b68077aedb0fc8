"""Step time and memory of sve against M separate networks and the official formulation, as ratios from one run.

    python scripts/benchmark.py [--members 8] [--batch 32] [--model micro] [--device cpu] [--out results/benchmark.json]

Variants, all on the same random backbone weights and the same batch:

- ``single``: one network, all of it trained;
- ``separate``: M such networks, one after the other;
- ``sve``: uqbench's, all blocks adapted; ``sve_last_quarter``: the last quarter of the blocks;
- ``official``: the released formulation: the input repeated before the patch embedding, and every adapted layer
  rebuilding all M dense weights with one einsum in every forward.

Times are medians over rounds in which every variant runs once, so a slow moment of the machine hits all alike. Memory
is what a process of its own allocates at most beyond its imports (CPU: resident set; GPU: allocator's peak).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from uqbench.backbones.vit import ViT
from uqbench.cost import count_parameters, peak_resident_mb
from uqbench.files import write_safely
from uqbench.members.network import AnyNetwork
from uqbench.members.svd import decompose
from uqbench.methods.deep_ensemble import DeepEnsemble
from uqbench.methods.single import Single
from uqbench.methods.sve import SVE
from uqbench.record import surroundings
from uqbench.task import Classification

VARIANTS = ("single", "separate", "sve", "sve_last_quarter", "official")
TASK = Classification(10)


class EinsumLayer(nn.Module):
    """The official formulation of one layer; rows are sample-major, ``[B*M, T, i]``."""

    def __init__(self, layer: nn.Linear, members: int):
        super().__init__()
        U, S, Vh = (factor[0] for factor in decompose(layer.weight[None]))
        self.members = members
        self.register_buffer("U", U)
        self.register_buffer("Vh", Vh)
        self.S = nn.Parameter(S * (1 + 0.01 * torch.randn(members, len(S))))
        self.b = nn.Parameter(layer.bias.detach() + 0.01 * torch.randn(members, layer.out_features))

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.einsum("ok,mk,ki->moi", self.U, self.S.clamp(min=0), self.Vh)
        x = x.unflatten(0, (-1, self.members))
        return (torch.einsum("bmti,moi->bmto", x, weight) + self.b[:, None]).flatten(0, 1)


class Official(nn.Module):
    """The official network: repeat, forward, a head per member."""

    def __init__(self, build: Callable[[int], ViT], members: int):
        super().__init__()
        self.backbone = build(0).requires_grad_(False)
        self.members = members
        for layer in self.backbone.layers:
            parent, _, child = layer.name.rpartition(".")
            old = self.backbone.get_submodule(layer.name)
            assert isinstance(old, nn.Linear)
            setattr(self.backbone.get_submodule(parent), child, EinsumLayer(old, members))
        self.head = nn.Parameter(0.01 * torch.randn(members, TASK.num_outputs, self.backbone.num_features))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        repeated = batch["image"].repeat_interleave(self.members, dim=0)
        features = self.backbone.forward_features({"image": repeated}).unflatten(0, (-1, self.members))
        return torch.einsum("bmd,mcd->mbc", features, self.head)


def make(variant: str, args: argparse.Namespace) -> AnyNetwork | Official:
    def build(seed: int) -> ViT:
        return ViT(model=args.model, weights="random", image_size=args.image_size, seed=seed)

    if variant == "official":
        return Official(build, args.members).to(args.device)
    quarter = max(1, len(build(0).blocks) // 4)
    method = {
        "single": Single(),
        "separate": DeepEnsemble(num_members=args.members),
        "sve": SVE(num_members=args.members),
        "sve_last_quarter": SVE(num_members=args.members, last_blocks=quarter),
    }[variant]
    return method.prepare(build, TASK, seed=0).to(args.device)


def training_step(network: nn.Module, optimiser: torch.optim.Optimizer, batch: dict[str, Tensor]) -> None:
    optimiser.zero_grad(set_to_none=True)
    TASK.member_losses(network(batch), batch["target"]).mean().backward()
    optimiser.step()


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def make_batch(args: argparse.Namespace) -> dict[str, Tensor]:
    batch = {
        "image": torch.randn(args.batch, 3, args.image_size, args.image_size),
        "target": torch.randint(TASK.num_outputs, (args.batch,)),
        "index": torch.arange(args.batch),
    }
    return {key: value.to(args.device) for key, value in batch.items()}


def adamw(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in network.parameters() if p.requires_grad])


def measure_times(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Median seconds of a prediction and a training step of every variant, measured in turn."""
    batch = make_batch(args)
    networks = {variant: make(variant, args) for variant in VARIANTS}
    optimisers = {variant: adamw(network) for variant, network in networks.items()}
    seconds: dict[str, dict[str, list[float]]] = {v: {"predict": [], "train": []} for v in VARIANTS}
    for _ in range(args.rounds + 1):
        for variant, network in networks.items():
            network.eval()
            with torch.no_grad():
                network(batch)  # fills the cache of member weights; not timed
                synchronise(args.device)
                start = time.perf_counter()
                network(batch)
                synchronise(args.device)
            seconds[variant]["predict"].append(time.perf_counter() - start)
            network.train()
            start = time.perf_counter()
            training_step(network, optimisers[variant], batch)
            synchronise(args.device)
            seconds[variant]["train"].append(time.perf_counter() - start)
    return {v: {what: statistics.median(times[1:]) for what, times in s.items()} for v, s in seconds.items()}


def measure_memory(variant: str, args: argparse.Namespace) -> float:
    """Peak MB of three training steps and a prediction, in this process, beyond what its imports take."""
    before = peak_resident_mb()
    batch, network = make_batch(args), make(variant, args)
    optimiser = adamw(network)
    for _ in range(3):
        training_step(network, optimiser, batch)
    if args.device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return peak_resident_mb() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="micro", help="micro, or a VisionTransformer of timm")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    parser.add_argument("--memory-of", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        print(measure_memory(args.memory_of, args))
        return

    times = measure_times(args)
    settings = ["--model", args.model, "--image-size", args.image_size, "--members", args.members,
                "--batch", args.batch, "--device", args.device]  # fmt: skip
    rows = {}
    for variant in VARIANTS:
        command = [sys.executable, __file__, *map(str, settings), "--memory-of", variant]
        memory = float(subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ).stdout)
        network = make(variant, args)
        trainable = sum(p.numel() for p in network.parameters() if p.requires_grad)
        rows[variant] = {**times[variant], "memory_mb": memory, "trainable": trainable}
        if not isinstance(network, Official):
            rows[variant]["added"] = count_parameters(network)["added"]

    print(f"{args.model}, M = {args.members}, batch {args.batch}, {args.device}; ratios within this run")
    print(
        f"{'':18}{'predict':>10}{'train':>10}{'memory':>10}   (x separate)    {'predict':>10}{'train':>10}   (x single)"
    )
    base, one = rows["separate"], rows["single"]
    for variant, row in rows.items():
        against = "".join(f"{row[key] / base[key]:10.2f}" for key in ("predict", "train", "memory_mb"))
        single = "".join(f"{row[key] / one[key]:10.2f}" for key in ("predict", "train"))
        print(f"{variant:18}{against}{'':19}{single}")
    sve, official = rows["sve"], rows["official"]
    ratios = ", ".join(f"{key} {sve[key] / official[key]:.2f}" for key in ("predict", "train", "memory_mb"))
    print(f"sve against official: {ratios}")
    if args.out:
        about = {key: value for key, value in vars(args).items() if key not in ("out", "memory_of")}
        text = json.dumps({"settings": about, **surroundings(), "rows": rows}, indent=2) + "\n"
        write_safely(args.out, lambda path: path.write_text(text))


if __name__ == "__main__":
    main()
