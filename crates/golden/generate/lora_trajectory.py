"""Ten optimiser steps of PEFT + Transformers, weights and losses stored.

trajectory/NAME/
  base/            the starting model as Transformers saves it
  adapter/         the starting adapter as PEFT saves it, B not zero (all but `full*`)
  golden.safetensors
    `tokens.S.D`, `labels.S.D` i64 [t]: document D of step S; a label is the token itself where it
                 is trained and -100 where not (not shifted, as Transformers takes them)
    `initial.P`, `final.P`, `grad.P`: each trainable parameter before the first and after the last
                 step, and its gradient at the first step, before clipping
  trajectory.json  `losses`, `grad_norms` (before clipping), `learning_rates` (of the first group),
                 `trained_tokens` by step; the options; `relative_distance_to_f64`: how far an f64
                 run of the same steps lies from this one, relative to each tensor's largest element

The loss of a step is the sum of the cross-entropies of its trained tokens over their count, each
document run alone (what Transformers computes with `num_items_in_batch`). The optimiser is AdamW
with decoupled decay in the groups of `transformers.Trainer`, which does not decay norms and biases,
except in `loraplus`, where PEFT's `create_loraplus_optimizer` makes the groups.

Made with: torch 2.11.0, transformers 5.23.0, peft 0.21.2.
"""

import copy

import torch
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from transformers import get_scheduler
from transformers.trainer_pt_utils import get_parameter_names

from tiny import documents, fresh, output_folder, save_adapter, tiny_llama, write_json, write_tensors

STEPS, WARMUP, DECAY, CLIP, BETAS, EPS = 10, 2, 0.01, 1.0, (0.9, 0.999), 1e-8
NOT_DECAYED = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]

ALL_LINEAR = dict(r=4, lora_alpha=10, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
PATTERNS = dict(
    ALL_LINEAR,
    use_rslora=True,
    rank_pattern={"down_proj": 2, "layers.1.self_attn.q_proj": 7},
    alpha_pattern={"gate_proj": 3, r"layers\.0\..*\.v_proj": 5},
    modules_to_save=["lm_head"],
)

RUNS = {
    "lora": dict(lora=ALL_LINEAR, learning_rate=1e-2),
    "lora-untied-patterns": dict(lora=PATTERNS, learning_rate=1e-2, tied=False),
    "loraplus": dict(lora=ALL_LINEAR, learning_rate=1e-3, loraplus_lr_ratio=16.0),
    "full": dict(learning_rate=3e-3),
    "full-decay-groups": dict(learning_rate=3e-3, tied=False, biases=True, weight_decay=0.3),
}


def rows(step):
    """Two documents and their labels; a prefix and a hole are not trained."""
    docs = documents(1000 + step, (9 + step % 4, 5 + step % 3))
    labels = [tokens.clone() for tokens in docs]
    labels[0][:3] = -100
    labels[1][2] = -100
    return list(zip(docs, labels, strict=True))


def optimizer_of(model, run):
    settings = dict(lr=run["learning_rate"], betas=BETAS, eps=EPS)
    decay = run.get("weight_decay", DECAY)
    if "loraplus_lr_ratio" in run:
        ratio = run["loraplus_lr_ratio"]
        more = dict(settings, loraplus_weight_decay=decay)
        return create_loraplus_optimizer(model, torch.optim.AdamW, loraplus_lr_ratio=ratio, **more)
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    decayed = set(get_parameter_names(model, [torch.nn.LayerNorm], NOT_DECAYED))
    groups = [
        dict(params=[p for name, p in named.items() if name in decayed], weight_decay=decay),
        dict(params=[p for name, p in named.items() if name not in decayed], weight_decay=0.0),
    ]
    return torch.optim.AdamW(groups, **settings)


def train(model, run):
    """Runs all steps on `model`; its record, and the first step's gradients."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = optimizer_of(model, run)
    scheduler = get_scheduler("linear", optimizer, WARMUP, STEPS)
    record = dict(losses=[], grad_norms=[], learning_rates=[], trained_tokens=[])
    first = None
    for step in range(STEPS):
        batch = rows(step)
        count = sum(int((labels[1:] != -100).sum()) for _, labels in batch)
        total = 0.0
        for tokens, labels in batch:
            loss = model(input_ids=tokens[None], labels=labels[None], num_items_in_batch=count, use_cache=False).loss
            loss.backward()
            total += loss.item()
        if first is None:
            first = {name: p.grad.clone() for name, p in named.items()}
        norm = torch.nn.utils.clip_grad_norm_(list(named.values()), CLIP)
        record["losses"].append(total)
        record["grad_norms"].append(norm.item())
        record["learning_rates"].append(optimizer.param_groups[0]["lr"])
        record["trained_tokens"].append(count)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    return record, first


def run_one(out, name, run):
    folder = fresh(out / name)
    model = tiny_llama(
        seed=21,
        tie_word_embeddings=run.get("tied", True),
        attention_bias=run.get("biases", False),
        mlp_bias=run.get("biases", False),
    )
    model.save_pretrained(folder / "base")
    (folder / "base/generation_config.json").unlink()
    if "lora" in run:
        torch.manual_seed(5)
        model = get_peft_model(model, LoraConfig(**run["lora"]))
        generator = torch.Generator().manual_seed(6)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if "lora_B" in key:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
        save_adapter(model, folder / "adapter")
    model.train()
    initial = {key: p.detach().clone() for key, p in model.named_parameters() if p.requires_grad}
    twin = copy.deepcopy(model).double()
    record, first = train(model, run)
    exact, _ = train(twin, run)
    final = {key: p.detach().clone() for key, p in model.named_parameters() if p.requires_grad}
    double = {key: p.detach() for key, p in twin.named_parameters()}

    def worst(key):
        return ((final[key] - double[key]).abs().max() / double[key].abs().max()).item()

    tensors = {}
    for step in range(STEPS):
        for index, (tokens, labels) in enumerate(rows(step)):
            tensors[f"tokens.{step}.{index}"] = tokens
            tensors[f"labels.{step}.{index}"] = labels

    def plain(key):
        """The name in the file that PEFT or Transformers saves."""
        return key.replace(".default", "").replace(".modules_to_save", "")

    for kind, values in (("initial", initial), ("final", final), ("grad", first)):
        tensors |= {f"{kind}.{plain(key)}": value for key, value in values.items()}
    write_tensors(folder / "golden.safetensors", tensors)
    lost = max(abs(a - b) / abs(b) for a, b in zip(record["losses"], exact["losses"], strict=True))
    options = dict(
        steps=STEPS,
        schedule="linear",
        warmup_steps=WARMUP,
        learning_rate=run["learning_rate"],
        weight_decay=run.get("weight_decay", DECAY),
        loraplus_lr_ratio=run.get("loraplus_lr_ratio"),
        betas=BETAS,
        epsilon=EPS,
        max_grad_norm=CLIP,
    )
    against = dict(losses=lost, parameters=max(map(worst, final)))
    write_json(folder / "trajectory.json", dict(options=options, **record, relative_distance_to_f64=against))
    print(name, [round(x, 4) for x in record["losses"]], [round(x, 2) for x in record["grad_norms"]], against)


def main():
    out = output_folder() / "trajectory"
    for name, run in RUNS.items():
        run_one(out, name, run)


if __name__ == "__main__":
    main()
