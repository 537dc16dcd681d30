"""Learning-rate multipliers of Transformers' schedules, for 50 steps.

schedules.json: a list of `name`, `num_warmup_steps`, `num_training_steps`, `options`
(`lr_scheduler_kwargs`), `learning_rate` (the peak) and `values`: the learning rate that step
0, 1, .. 49 trains with.

Made with: torch 2.11.0, transformers 5.23.0.
"""

import torch
from transformers import get_scheduler

from tiny import output_folder, write_json

STEPS, PEAK = 50, 3e-4

SCHEDULES = [
    ("constant", 0, {}),
    ("constant_with_warmup", 7, {}),
    ("linear", 0, {}),
    ("linear", 7, {}),
    ("linear", 50, {}),
    ("cosine", 0, {}),
    ("cosine", 7, {}),
    ("cosine", 7, {"num_cycles": 1.5}),
    ("cosine_with_restarts", 7, {"num_cycles": 3}),
    ("cosine_with_min_lr", 7, {"min_lr": 3e-5}),
    ("cosine_with_min_lr", 0, {"min_lr_rate": 0.25}),
    ("cosine_warmup_with_min_lr", 7, {"min_lr_rate": 0.1, "warmup_lr_rate": 0.2}),
    ("polynomial", 7, {}),
    ("polynomial", 7, {"power": 2.0, "lr_end": 1e-5}),
    ("inverse_sqrt", 7, {}),
    ("inverse_sqrt", 0, {}),
    ("inverse_sqrt", 7, {"timescale": 20}),
    ("warmup_stable_decay", 7, {"num_decay_steps": 13}),
    ("warmup_stable_decay", 7, {"num_decay_steps": 13, "min_lr_ratio": 0.1}),
    ("warmup_stable_decay", 7, {"num_decay_steps": 13, "decay_type": "linear", "warmup_type": "cosine"}),
    ("warmup_stable_decay", 7, {"num_decay_steps": 13, "decay_type": "1-sqrt", "num_stable_steps": 21}),
]


def values(name, warmup, options):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=PEAK)
    stable = "num_stable_steps" in options
    total = None if stable else STEPS
    scheduler = get_scheduler(name, optimizer, warmup, total, scheduler_specific_kwargs=dict(options))
    rates = []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def main():
    table = [
        dict(
            name=name,
            num_warmup_steps=warmup,
            num_training_steps=STEPS,
            learning_rate=PEAK,
            options=options,
            values=values(name, warmup, options),
        )
        for name, warmup, options in SCHEDULES
    ]
    write_json(output_folder() / "schedules.json", table)


if __name__ == "__main__":
    main()
