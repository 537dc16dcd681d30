"""PEFT's `add_weighted_adapter` beside `finetune combine`: time, and how far the two results are apart.

Three adapters of rank 16 on one matrix of 4096 × 4096, cut to rank 16 (`--type svd`, which is PEFT's default), or any
type that both have and that draws nothing:

  cargo build --release -p finetune
  python benches/peft/combine.py --finetune target/release/finetune [--type ties_svd --density 0.5]

PEFT's time is that of the call; the command's is given twice: of combining alone, and of the whole process, files read
and written. Three turns, each the best of five of ours and one call of PEFT's.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

WEIGHTS = {"a": 0.5, "b": 0.3, "c": 0.2}
TURNS = 3
MODULE = "base_model.model.q_proj"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--finetune", type=Path, required=True)
    parser.add_argument("--type", default="svd")
    parser.add_argument("--density", type=float)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    layer = torch.nn.ModuleDict({"q_proj": torch.nn.Linear(arguments.width, arguments.width, bias=False)})
    config = LoraConfig(r=arguments.rank, lora_alpha=2 * arguments.rank, target_modules=["q_proj"])
    model = get_peft_model(layer, config, adapter_name="a")
    for name in list(WEIGHTS)[1:]:
        model.add_adapter(name, config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    with tempfile.TemporaryDirectory() as home:
        home = Path(home)
        command = [str(arguments.finetune), "combine", "--type", arguments.type, "--output", str(home / "ours"), "--json"]
        for name, weight in WEIGHTS.items():
            model.save_pretrained(home, selected_adapters=[name])
            command += ["--adapter", f"{home / name}={weight}"]
        options = {}
        if arguments.type.endswith("svd"):
            options["svd_rank"] = arguments.rank
            command += ["--rank", str(arguments.rank)]
        if arguments.density is not None:
            options["density"] = arguments.density
            command += ["--density", str(arguments.density)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
        turns = []
        for turn in range(TURNS):
            calls, processes = [], []
            for _ in range(5):
                shutil.rmtree(home / "ours", ignore_errors=True)
                begun = time.perf_counter()
                said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
                processes.append(time.perf_counter() - begun)
                calls.append(json.loads(said.stdout)["seconds"])
            begun = time.perf_counter()
            model.add_weighted_adapter(list(WEIGHTS), list(WEIGHTS.values()), f"theirs{turn}", arguments.type, **options)
            turns.append((min(calls), min(processes), time.perf_counter() - begun))
        ours = load_file(home / "ours/adapter_model.safetensors")
    q = model.base_model.model.q_proj
    wanted = q.lora_B["theirs0"].weight.data @ q.lora_A["theirs0"].weight.data
    found = ours[f"{MODULE}.lora_B.weight"] @ ours[f"{MODULE}.lora_A.weight"]
    apart = ((found - wanted).norm() / wanted.norm()).item()
    print(json.dumps(json.loads(said.stdout)["modules"]))
    for what, of in (("combining", 0), ("the whole process", 1)):
        ratios = [turn[2] / turn[of] for turn in turns]
        print(
            f"{what}: finetune {statistics.median(turn[of] for turn in turns) * 1e3:.1f} ms,"
            f" PEFT {statistics.median(turn[2] for turn in turns):.2f} s:"
            f" {statistics.median(ratios):.0f} x ({min(ratios):.0f} to {max(ratios):.0f})"
        )
    print(f"relative difference of the updates {apart:.2e}")


if __name__ == "__main__":
    main()
