"""Transformers + PEFT as one would write it by hand: bf16 model, LoRA r 16 on all linear layers, AdamW.

Prints one JSON line an optimiser step: `{"step": n, "tokens": t, "loss": l}`, tokens counted from the start; whoever reads it keeps the time.
On a CUDA device the line also has `peak_bytes`, the most that was allocated so far.
"""

import argparse
import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder that prepare.py wrote")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--checkpointing", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(options.data / "model")
    model = AutoModelForCausalLM.from_pretrained(options.data / "model", dtype=torch.bfloat16).to(options.device)
    if options.checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-4)
    texts = [json.loads(line)["text"] for line in (options.data / "rows.jsonl").open(encoding="utf-8")]
    rows = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    for step in range(options.steps):
        start = step * options.batch % (len(rows) - options.batch + 1)
        ids = torch.tensor(rows[start : start + options.batch], device=options.device)
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        said = {"step": step + 1, "tokens": ids.numel() * (step + 1), "loss": loss.item()}
        if ids.is_cuda:
            said["peak_bytes"] = torch.cuda.max_memory_allocated()
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
