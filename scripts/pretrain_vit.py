"""Pretrains the embedded micro ViT on CIFAR-10 images without their labels, by contrastive learning.

    python scripts/pretrain_vit.py --data ../shared/data/cifar10 --epochs 20

SimCLR (Chen et al. 2020, arXiv 2002.05709): two augmented views of an image are drawn together and pushed away from
all other views of the batch (NT-Xent). Half of the patch tokens of each view are dropped, which halves the cost. The
labels of the training images are read once, after training, for the linear probe that the log reports.

Writes into --out: ``<name>.safetensors`` (the last weights), ``<name>_weak.safetensors`` (the weights after a tenth of
the schedule, for the question of what pretraining contributes) and ``<name>.log.jsonl`` (settings, loss by epoch,
probe). An interrupted run continues from its last epoch.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from datasets import load_dataset
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from uqbench.data.augment import ColorJitter, Compose, RandomGrayscale, RandomHorizontalFlip, RandomResizedCrop
from uqbench.files import write_safely
from uqbench.seeding import generator, seeded

ARCHITECTURE: dict[str, Any] = {
    "img_size": 32, "patch_size": 4, "embed_dim": 96, "depth": 8, "num_heads": 3, "num_classes": 0,
    "global_pool": "avg",
}  # fmt: skip
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def load_split(path: str, split: str) -> tuple[Tensor, Tensor]:
    """Reads a split as uint8 images [N, 3, 32, 32] and labels [N]."""
    rows = load_dataset(path, split=split).with_format("numpy")
    images = torch.from_numpy(np.stack(rows["img"][:])).permute(0, 3, 1, 2).contiguous()
    return images, torch.from_numpy(np.asarray(rows["label"][:]))


def normalise(images: Tensor) -> Tensor:
    """Scales images in [0, 1] to zero mean and unit variance per channel."""
    return (images - images.new_tensor(MEAN).view(1, 3, 1, 1)) / images.new_tensor(STD).view(1, 3, 1, 1)


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """The SimCLR loss of paired embeddings [B, D]: each view's positive is its partner among the other 2B - 1."""
    views = F.normalize(torch.cat([first, second]).float(), dim=1)
    logits = views @ views.T / temperature
    logits.fill_diagonal_(-math.inf)
    partner = torch.arange(len(views), device=views.device).roll(len(first))
    return F.cross_entropy(logits, partner)


class Contrastive(nn.Module):
    """The ViT and SimCLR's projection head, which is thrown away after pretraining."""

    def __init__(self, patch_drop: float):
        super().__init__()
        self.backbone = VisionTransformer(**ARCHITECTURE, patch_drop_rate=patch_drop)
        width = ARCHITECTURE["embed_dim"]
        self.projector = nn.Sequential(
            nn.Linear(width, 512, bias=False), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 128, bias=False)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.projector(self.backbone(images))


def linear_probe(backbone: nn.Module, path: str, device: torch.device) -> float:
    """Test accuracy of a logistic regression on frozen, standardised features of the CIFAR-10 training split."""
    backbone.eval()

    @torch.no_grad()
    def features(split: str) -> tuple[Tensor, Tensor]:
        images, labels = load_split(path, split)
        parts = [backbone(normalise(chunk.to(device).float() / 255)) for chunk in images.split(500)]
        return torch.cat(parts).clone(), labels.to(device)

    (x, y), (x_test, y_test) = features("train"), features("test")
    centre, scale = x.mean(0), x.std(0)
    x, x_test = ((part.clone() - centre) / scale for part in (x, x_test))
    weight = torch.zeros(10, x.shape[1] + 1, device=device, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(F.linear(x, weight[:, :-1], weight[:, -1]), y) + 1e-4 * weight[:, :-1].square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return (F.linear(x_test, weight[:, :-1], weight[:, -1]).argmax(1) == y_test).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="directory that datasets.load_dataset opens as CIFAR-10")
    parser.add_argument("--out", type=Path, default=Path("uqbench/backbones/assets"))
    parser.add_argument("--work", type=Path, default=Path("runs/pretrain_vit"), help="where the checkpoint lies")
    parser.add_argument("--name", default="vit_micro")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--temperature", type=float, default=0.2)
    parser.add_argument("--patch-drop", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    args.work.mkdir(parents=True, exist_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)

    images, _ = load_split(args.data, "train")
    steps = len(images) // args.batch
    weak_epoch = max(1, args.epochs // 10)
    augment = Compose(
        RandomResizedCrop(32, scale=[0.25, 1.0]),
        RandomHorizontalFlip(),
        ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        RandomGrayscale(0.2),
    )
    with seeded(args.seed, "init"):
        model = Contrastive(args.patch_drop).to(device)
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decay, "weight_decay": args.weight_decay}, {"params": rest, "weight_decay": 0.0}],
        lr=args.lr, betas=(0.9, 0.98),
    )  # fmt: skip
    warmup, total = steps, args.epochs * steps
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda i: min((i + 1) / warmup, 0.5 * (1 + math.cos(math.pi * min(1, i / total))))
    )

    checkpoint, log, first = args.work / f"{args.name}.ckpt", [], 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        log, first = state["log"], state["epoch"]

    for epoch in range(first, args.epochs):
        model.train()
        start, running = time.perf_counter(), 0.0
        order = torch.randperm(len(images), generator=generator(args.seed, "order", epoch))
        for step in range(steps):
            batch = images[order[step * args.batch : (step + 1) * args.batch]].to(device).float() / 255
            stream = generator(args.seed, "augment", epoch, step)
            torch.manual_seed(stream.initial_seed())  # the dropped patches
            views = normalise(torch.cat([augment(batch, stream), augment(batch, stream)]))
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                embeddings = model(views)
            first_view, second_view = embeddings.chunk(2)
            loss = nt_xent(first_view, second_view, args.temperature)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            running += loss.item()
        log.append({"epoch": epoch + 1, "loss": running / steps, "seconds": round(time.perf_counter() - start, 1)})
        print(json.dumps(log[-1]), flush=True)
        state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "schedule": schedule.state_dict()}
        write_safely(checkpoint, partial(torch.save, {**state, "log": log, "epoch": epoch + 1}))
        weights = {k: v.detach().cpu().clone() for k, v in model.backbone.state_dict().items()}
        suffixes = ([""] if epoch + 1 == args.epochs else []) + (["_weak"] if epoch + 1 == weak_epoch else [])
        for suffix in suffixes:
            write_safely(args.out / f"{args.name}{suffix}.safetensors", partial(save_file, weights))

    probes = {}
    with seeded(args.seed, "init"):
        probes["random"] = linear_probe(Contrastive(0.0).backbone.to(device), args.data, device)
    for suffix in ("_weak", ""):
        backbone = VisionTransformer(**ARCHITECTURE)
        backbone.load_state_dict(load_file(args.out / f"{args.name}{suffix}.safetensors"))
        probes["weak" if suffix else "pretrained"] = linear_probe(backbone.to(device), args.data, device)
    settings = {
        k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k not in ("data", "out", "work")
    }
    header = {
        "data": "CIFAR-10 (JPEG) training split, 50,000 images, labels unused", "settings": settings,
        "architecture": ARCHITECTURE, "weak_epoch": weak_epoch, "device": str(device), "torch": torch.__version__,
    }  # fmt: skip
    lines = [header, *log, {"linear_probe_test_accuracy": probes}]
    write_safely(
        args.out / f"{args.name}.log.jsonl", lambda path: path.write_text("".join(json.dumps(x) + "\n" for x in lines))
    )
    print(json.dumps(lines[-1]))


if __name__ == "__main__":
    main()
