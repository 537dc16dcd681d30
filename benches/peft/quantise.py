"""bitsandbytes' CPU path beside ours: NF4 of a 4096 × 4096 matrix in f32, there and back, in turns, and the same codes.

  cargo build --release -p benches --example nf4
  python benches/peft/quantise.py --ours target/release/examples/nf4
"""

import argparse
import json
import os
import statistics
import subprocess
import time
from pathlib import Path

import bitsandbytes.functional as bnb
import torch

TURNS = 3


def theirs(value):
    """Seconds of each call, the fastest of a turn's seven."""
    times = {"quantise": [], "dequantise": []}
    for _ in range(7):
        begin = time.perf_counter()
        codes, state = bnb.quantize_4bit(value, blocksize=64, quant_type="nf4")
        middle = time.perf_counter()
        bnb.dequantize_4bit(codes, state)
        times["dequantise"].append(time.perf_counter() - middle)
        times["quantise"].append(middle - begin)
    return {name: min(found) for name, found in times.items()} | {"first": int(codes.view(-1)[0])}


def ours(binary, count, threads):
    environment = os.environ | {"RAYON_NUM_THREADS": str(threads)}
    output = subprocess.run([binary, str(count)], check=True, capture_output=True, env=environment).stdout
    lines = [json.loads(line) for line in output.splitlines()]
    return {name: min(line[name] for line in lines) for name in lines[0]}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ours", type=Path, required=True)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    count = arguments.width**2
    value = (torch.sin(torch.arange(count, dtype=torch.float32) * 0.37) * 0.05).view(arguments.width, -1)
    found = {"ours": [], "bitsandbytes": []}
    for _ in range(TURNS):
        found["ours"].append(ours(arguments.ours, count, arguments.threads))
        found["bitsandbytes"].append(theirs(value))
    assert found["ours"][0]["first"] == found["bitsandbytes"][0]["first"], "not the same codes"
    print(f"NF4 of {arguments.width} x {arguments.width} f32, {arguments.threads} threads, best of 7, in {TURNS} turns")
    for what in ("quantise", "dequantise"):
        times = {side: [turn[what] for turn in turns] for side, turns in found.items()}
        ratios = [b / a for a, b in zip(times["ours"], times["bitsandbytes"])]
        bytes_moved = count * 4 + count // 2 + count // 16
        rate = bytes_moved / statistics.median(times["ours"]) / 1e9
        print(
            f"{what}: ours {statistics.median(times['ours']) * 1e3:.1f} ms ({rate:.1f} GB/s),"
            f" bitsandbytes {statistics.median(times['bitsandbytes']) * 1e3:.1f} ms:"
            f" {statistics.median(ratios):.1f} x ({min(ratios):.1f} to {max(ratios):.1f})"
        )
    copies = [turn["copy"] for turn in found["ours"]]
    print(f"a copy on one thread moves {count * 8 / statistics.median(copies) / 1e9:.1f} GB/s")


if __name__ == "__main__":
    main()
