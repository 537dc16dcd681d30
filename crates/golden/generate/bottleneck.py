"""Bottleneck adapters by their equation, in f64, around one linear sublayer.

bottleneck/KIND-PLACE.safetensors   KIND: relu, gelu, swish; PLACE: behind, beside
  x [t, d], inner [d, d]: the sublayer's input and its frozen matrix; down [m, d], down_bias, up [d, m],
  up_bias, scaling [1]: the adapter; dy; and what follows: y, d_x, d_down, d_down_bias, d_up, d_up_bias,
  d_scaling

With h = x innerᵀ the output is h + scaling · (up φ(down r + down_bias) + up_bias), r = h behind the
sublayer and r = x beside it. Made with: torch 2.11.0.
"""

import torch
import torch.nn.functional as F

from tiny import fresh, output_folder, write_tensors

ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu, "swish": F.silu}


def case(seed, activation, parallel):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape, std=1.0):
        values = torch.randn(*shape, generator=generator, dtype=torch.float64) * std
        return values.requires_grad_()

    t, d, m = 11, 19, 5
    x, inner = draw(t, d), draw(d, d, std=0.3).detach()
    leaves = dict(
        down=draw(m, d, std=0.5),
        down_bias=draw(m),
        up=draw(d, m, std=0.5),
        up_bias=draw(d),
        scaling=draw(1),
    )
    h = x @ inner.T
    read = x if parallel else h
    added = activation(read @ leaves["down"].T + leaves["down_bias"]) @ leaves["up"].T + leaves["up_bias"]
    y = h + leaves["scaling"] * added
    dy = draw(t, d).detach()
    leaves = {"x": x} | leaves
    gradients = torch.autograd.grad(y, list(leaves.values()), dy)
    return leaves | dict(inner=inner, dy=dy, y=y) | {f"d_{name}": g for name, g in zip(leaves, gradients)}


def main():
    out = fresh(output_folder() / "bottleneck")
    seed = 90
    for kind, activation in ACTIVATIONS.items():
        for place in ("behind", "beside"):
            write_tensors(out / f"{kind}-{place}.safetensors", case(seed, activation, place == "beside"))
            seed += 1


if __name__ == "__main__":
    main()
