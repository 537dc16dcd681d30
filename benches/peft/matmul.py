"""The machine's own rate: the best of many bf16 matrix products, in TFLOP/s, as one JSON object."""

import argparse
import json
import time

import torch


def rate(rows, inner, columns, seconds):
    """The best rate seen within `seconds`."""
    a = torch.randn(rows, inner).bfloat16()
    b = torch.randn(columns, inner).bfloat16()
    best, until = 0.0, time.perf_counter() + seconds
    with torch.no_grad():
        while time.perf_counter() < until:
            begun = time.perf_counter()
            torch.nn.functional.linear(a, b)
            best = max(best, 2.0 * rows * inner * columns / (time.perf_counter() - begun))
    return best / 1e12


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(json.dumps({
        "square": rate(2048, 2048, 2048, options.seconds),
        "model": rate(2048, 576, 3072, options.seconds),
    }))


if __name__ == "__main__":
    main()
