"""Ours against Transformers + PEFT on a CUDA device, in turns: LoRA r 16 on all linear layers, bf16, rows of 512 tokens.

Speed does not depend on what weights hold, so both sides read models of random weights: one of SmolLM2-135M's shape and
one of SmolLM2-1.7B's. A step is over when the program has said so; both are watched with the same clock. The Python that
runs this brings PyTorch with CUDA, Transformers and PEFT; the binary finds the CUDA libraries beside that PyTorch:

    LD_LIBRARY_PATH=.../torch/lib:.../nvidia/*/lib python3 benches/peft/cuda.py --binary target/release/finetune --data DATA
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

HERE = Path(__file__).resolve().parent
# Name, documents a step, and what differs from the model that prepare.py wrote.
SIZES = [
    ("135M", 4, {}),
    ("1.7B", 16, {"hidden_size": 2048, "num_hidden_layers": 24, "intermediate_size": 8192,
                  "num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 64}),
]
TOKENS = 512
WARM_UP = 5


def make(data, folder, differs):
    """A model of random weights with the tokenizer and rows of `data`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(data / "model")
    config.update(differs)
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder / "model")
    for file in (data / "model").iterdir():
        if "tokenizer" in file.name or file.suffix == ".jinja":
            shutil.copy(file, folder / "model")
    shutil.copy(data / "rows.jsonl", folder / "rows.jsonl")


def watch(command, tokens):
    """Tokens a second from the first step after the warm-up to the last, and the seconds before the first step's end."""
    start, at = time.monotonic(), []
    program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=HERE.parents[1])
    said = []
    for line in program.stdout:
        said.append(line)
        if re.match(r'step +\d|\{"step"', line):
            at.append(time.monotonic() - start)
    if program.wait() != 0 or len(at) <= WARM_UP + 1:
        sys.exit("".join(said[-20:]))
    return tokens * (len(at) - 1 - WARM_UP) / (at[-1] - at[WARM_UP]), at[0], said


def ours(options, folder, batch, run):
    settings = [f"model.name_or_path={folder}/model", f"data.train.0.path={folder}/rows.jsonl", "model.device=cuda",
                f"train.output_dir={run}", f"train.max_steps={options.steps}",
                f"train.per_device_train_batch_size={batch}", f"data.max_tokens={batch * TOKENS}"]
    command = [str(options.binary.resolve()), "train", "recipes/bench.toml"]
    for setting in settings:
        command += ["--set", setting]
    rate, first, _ = watch(command, batch * TOKENS)
    entries = [json.loads(line) for line in (run / "metrics.jsonl").open(encoding="utf-8")]
    return rate, first, max(entry.get("peak_memory_bytes", 0) for entry in entries)


def peft(options, folder, batch):
    command = [sys.executable, "-u", str(HERE / "peft_step.py"), "--data", str(folder), "--steps", str(options.steps),
               "--threads", "8", "--device", "cuda", "--batch", str(batch)]
    rate, first, said = watch(command, batch * TOKENS)
    return rate, first, json.loads([line for line in said if line.startswith('{"step"')][-1])["peak_bytes"]


def row(name, turns):
    rates = [rate for rate, _, _ in turns]
    first = statistics.median(first for _, first, _ in turns)
    peak = max(peak for _, _, peak in turns) / 1e9
    return f"| {name} | {statistics.median(rates):.0f} ({min(rates):.0f} to {max(rates):.0f}) | {peak:.2f} GB | {first:.1f} s |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="the folder that prepare.py wrote")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    import torch

    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}\n")
    print("| | tokens/s (least to most) | peak memory | first step after |\n|---|---|---|---|")
    for name, batch, differs in SIZES:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            make(options.data, folder, differs)
            torch.cuda.empty_cache()
            sides = ([], [])
            for turn in range(options.turns):
                sides[0].append(ours(options, folder, batch, folder / f"run-{turn}"))
                sides[1].append(peft(options, folder, batch))
            print(row(f"{name}, {batch} documents a step: ours", sides[0]))
            print(row(f"{name}, {batch} documents a step: Transformers + PEFT", sides[1]))
            ratios = [a / b for (a, _, _), (b, _, _) in zip(*sides)]
            print(f"| | {statistics.median(ratios):.2f} × ({min(ratios):.2f} to {max(ratios):.2f}) | | |", flush=True)


if __name__ == "__main__":
    main()
