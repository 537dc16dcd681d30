"""`generate` of Transformers beside ours: sampling from a bf16 model with a LoRA adapter of rank 16 over it, in turns.

  cargo xtask bench --peft            (once: it makes the model's folder that both read)
  cargo build --release -p benches --example rollout
  python benches/peft/generate.py --ours target/release/examples/rollout --model FOLDER
"""

import argparse
import json
import os
import statistics
import subprocess
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

TURNS = 3


def prompts(batch, length):
    rows = [[1000 + (row * 7919 + at * 104729) % 40000 for at in range(length)] for row in range(batch)]
    return torch.tensor(rows)


def theirs(model, ids, reply):
    begin = time.perf_counter()
    out = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
        min_new_tokens=reply, max_new_tokens=reply, pad_token_id=0,
    )
    assert out.shape == (ids.shape[0], ids.shape[1] + reply), out.shape
    return ids.shape[0] * reply / (time.perf_counter() - begin)


def ours(arguments):
    words = [arguments.ours, arguments.model, arguments.batch, arguments.prompt, arguments.reply]
    environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads)}
    output = subprocess.run([str(word) for word in words], check=True, capture_output=True, env=environment).stdout
    lines = [json.loads(line) for line in output.splitlines()]
    assert all(line["tokens"] == arguments.batch * arguments.reply for line in lines), lines
    return max(line["tokens"] / line["seconds"] for line in lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ours", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--reply", type=int, default=48)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.bfloat16)
    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, config).eval()
    ids = prompts(arguments.batch, arguments.prompt)
    found = {"ours": [], "transformers": []}
    with torch.no_grad():
        for _ in range(TURNS):
            found["ours"].append(ours(arguments))
            found["transformers"].append(max(theirs(model, ids, arguments.reply) for _ in range(2)))
    ratios = [a / b for a, b in zip(found["ours"], found["transformers"])]
    print(
        f"{arguments.batch} replies of {arguments.reply} tokens to prompts of {arguments.prompt},"
        f" {arguments.threads} threads, {TURNS} turns:"
        f" ours {statistics.median(found['ours']):.0f} tokens/s, Transformers {statistics.median(found['transformers']):.0f}:"
        f" {statistics.median(ratios):.2f} x ({min(ratios):.2f} to {max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
