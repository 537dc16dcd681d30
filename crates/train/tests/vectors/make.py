"""AdamW, clipping, groups and schedule over 20 steps of a quadratic: adamw.json.

Each run: `recipe` (the [train] table), `shapes`, `initial` and `targets` of four parameters (a matrix,
a bias, an adapter's first and second factor), `norms` before clipping by step, `last` values.

Made with: torch 2.11.0, transformers 5.23.0. Run: python make.py
"""

import json
import pathlib

import torch
from transformers import get_scheduler

STEPS = 20
SHAPES = [[3, 5], [5], [2, 5], [3, 2]]
RUNS = [
    dict(lr=0.05, decay=0.0, ratio=1.0, kind="linear", warmup=0, betas=(0.9, 0.999), eps=1e-8, clip=1.0),
    dict(lr=0.03, decay=0.1, ratio=4.0, kind="cosine", warmup=4, betas=(0.8, 0.99), eps=1e-6, clip=100.0),
]


def main():
    table = []
    for seed, run in enumerate(RUNS):
        torch.manual_seed(seed)
        params = [torch.randn(shape).requires_grad_() for shape in SHAPES]
        targets = [torch.randn(shape) for shape in SHAPES]
        initial = [p.detach().clone() for p in params]
        # LoRA+ as in PEFT: the second factor and every vector learn faster; the bias is not decayed.
        fast, slow = run["lr"] * run["ratio"], run["lr"]
        groups = [
            dict(params=[params[0], params[2]], lr=slow, weight_decay=run["decay"]),
            dict(params=[params[3]], lr=fast, weight_decay=run["decay"]),
            dict(params=[params[1]], lr=fast, weight_decay=0.0),
        ]
        optimizer = torch.optim.AdamW(groups, betas=run["betas"], eps=run["eps"])
        scheduler = get_scheduler(run["kind"], optimizer, run["warmup"], STEPS)
        norms = []
        for _ in range(STEPS):
            optimizer.zero_grad()
            sum((p - t).square().sum() for p, t in zip(params, targets)).backward()
            norms.append(torch.nn.utils.clip_grad_norm_(params, run["clip"]).item())
            optimizer.step()
            scheduler.step()
        ratio = f"loraplus_lr_ratio = {run['ratio']}\n" if run["ratio"] != 1.0 else ""
        recipe = (
            f"learning_rate = {run['lr']}\nweight_decay = {run['decay']}\n{ratio}"
            f"lr_scheduler_type = \"{run['kind']}\"\nwarmup_steps = {run['warmup']}.0\nmax_steps = {STEPS}\n"
            f"adam_beta1 = {run['betas'][0]}\nadam_beta2 = {run['betas'][1]}\nadam_epsilon = {run['eps']}\n"
            f"max_grad_norm = {run['clip']}\n"
        )
        flat = lambda tensors: [t.detach().flatten().tolist() for t in tensors]
        table.append(
            dict(
                recipe=recipe,
                total_steps=STEPS,
                shapes=SHAPES,
                initial=flat(initial),
                targets=flat(targets),
                norms=norms,
                last=flat(params),
            )
        )
    path = pathlib.Path(__file__).with_name("adamw.json")
    path.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
