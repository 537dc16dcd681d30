"""Pruning one matrix: magnitude, Wanda and SparseGPT from their equations, in f64.

prune/layer.safetensors   weight [24, 48], x [200, 48] with correlated columns, one of them dead (17)
  magnitude.KEY, wanda.KEY          u8 [24, 48], 1 where the weight stays
  sparse_gpt.KEY.kept, .weight, .loss   the mask, the weights that are left in f64, and the sum of e²/2
  damped                            the Hessian 2 xᵀx with its dead column set and 0.01 of its mean diagonal added

prune/model.safetensors   over families/llama-untied, in f64, each block on what the pruned blocks before it give
  tokens [t] i64, lengths: the calibration documents
  wanda.MODULE, wanda_2:4.MODULE    u8, 1 where the weight stays: half of each row; 2:4
  sparse_gpt.MODULE                 f32, the weights that are left at 2:4, zero where they went

prune/parts.safetensors   over the same model, nothing pruned
  tokens, lengths                   as above
  influence, angular                f64 [layers]: block influence; angular distance over one block
  groups.KEY, channels.KEY          f64 [layers, units]: of activations; of Taylor's gates, multiplied into the units

SparseGPT is computed without its Cholesky factor: before column j the rows' best correction of columns j.. for
an error in column j is e / F_00 · F_0:, F the inverse of the damped Hessian's trailing part from j on. The
factor's row j is that row over the root of F_00, so both are the same sweep.

Made with: numpy 2.4.6, torch 2.11.0.
"""

import numpy as np
import torch
from transformers import LlamaForCausalLM

from tiny import documents, fresh, output_folder, write_tensors

OUT, IN, TOKENS, DEAD = 24, 48, 200, 17


def keep_all_but(scores, count):
    """True but for the `count` smallest scores; of equal ones the first go."""
    kept = np.ones(scores.size, dtype=bool)
    kept[np.argsort(scores.ravel(), kind="stable")[:count]] = False
    return kept.reshape(scores.shape)


def by_row(scores, share):
    count = int(scores.shape[1] * share)
    return np.stack([keep_all_but(row, count) for row in scores])


def in_groups(scores, zeros, of):
    groups = scores.reshape(scores.shape[0], -1, of)
    return np.stack([np.stack([keep_all_but(g, zeros) for g in row]) for row in groups]).reshape(scores.shape)


def hessian(x, dead_to=1.0):
    h = 2 * x.T @ x
    dead = np.diag(h) == 0
    h[dead, dead] = dead_to
    return h, dead


def damp(h, damping):
    return h + damping * np.diag(h).mean() * np.eye(len(h))


def sparse_gpt(weight, x, *, share=None, pattern=None, block=128, damping=0.01, at_most=False):
    """The mask, the corrected weights and the sum of e²/2; `at_most` prunes all scores up to the threshold."""
    h, dead = hessian(x)
    w = weight.copy()
    w[:, dead] = 0
    h = damp(h, damping)
    width = w.shape[1]
    inverses = [np.linalg.inv(h[j:, j:]) for j in range(width)]
    kept = np.ones_like(w, dtype=bool)
    loss = 0.0
    for start in range(0, width, block):
        end = min(start + block, width)
        if share is not None:
            pivots = np.array([inverses[j][0, 0] for j in range(start, end)])
            scores = w[:, start:end] ** 2 / pivots
            count = int(scores.size * share)
            if at_most:
                kept[:, start:end] = scores > np.sort(scores.ravel())[count]
            else:
                kept[:, start:end] = keep_all_but(scores, count)
        for j in range(start, end):
            if pattern and j % pattern[1] == 0:
                zeros, of = pattern
                group = slice(j, j + of)
                pivots = np.array([inverses[k][0, 0] for k in range(j, j + of)])
                kept[:, group] = in_groups(w[:, group] ** 2 / pivots, zeros, of)
            f = inverses[j]
            error = np.where(kept[:, j], 0.0, w[:, j])
            loss += (error**2 / f[0, 0]).sum() / 2
            w[:, j:] -= np.outer(error / f[0, 0], f[0])
            w[:, j] = np.where(kept[:, j], w[:, j], 0.0)
    return kept, w, loss


def paper_numbers():
    """The closed-form matrices: what the tests hold to six digits, checked here first."""
    i, j = np.mgrid[0:4, 0:8]
    w = np.sin(0.7 * i + 1.3 * j + 0.1 * i * j + 0.2)
    t, j = np.mgrid[0:16, 0:8]
    x = np.cos(0.3 * t + 0.9 * j + 0.05 * t * j) * (1 + 0.5 * j)
    total = ((x @ w.T) ** 2).sum()
    assert abs(total - 2774.147751) < 1e-6

    def relative(kept_or_w):
        left = kept_or_w * w if kept_or_w.dtype == bool else kept_or_w
        return ((x @ (w - left).T) ** 2).sum() / total

    norms = np.sqrt((x**2).sum(0))
    found = {
        "magnitude": relative(keep_all_but(abs(w), 16)),
        "magnitude per row": relative(by_row(abs(w), 0.5)),
        "magnitude 2:4": relative(in_groups(abs(w), 2, 4)),
        "wanda": relative(by_row(abs(w) * norms, 0.5)),
        "wanda 2:4": relative(in_groups(abs(w) * norms, 2, 4)),
    }
    for name, options in {
        "at most": dict(share=0.5, at_most=True),
        "exact": dict(share=0.5),
        "2:4": dict(pattern=(2, 4)),
        "block 4 at most": dict(share=0.5, block=4, at_most=True),
        "block 4": dict(share=0.5, block=4),
    }.items():
        kept, left, loss = sparse_gpt(w, x, **options)
        found["sparsegpt " + name] = (relative(left), int((~kept).sum()), loss)
    return found


LENGTHS = (61, 40, 57, 33, 29)
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def through_a_model(folder, prune_one):
    """`prune_one(weight, x)` for every projection, block by block; its results by path. The model is changed."""
    model = LlamaForCausalLM.from_pretrained(folder, attn_implementation="eager").double().eval()
    results = {}
    for idx, layer in enumerate(model.model.layers):
        inputs, hooks = {}, []
        for name, module in layer.named_modules():
            if name.split(".")[-1] in PROJECTIONS:
                see = lambda module, args, name=name: inputs.setdefault(name, []).append(args[0][0].detach())
                hooks.append(module.register_forward_pre_hook(see))
        with torch.no_grad():
            for tokens in documents(91, LENGTHS):
                model(tokens[None], use_cache=False)
        for hook in hooks:
            hook.remove()
        for name, seen in inputs.items():
            weight = layer.get_submodule(name).weight
            left, result = prune_one(weight.detach().numpy(), torch.cat(seen).numpy())
            with torch.no_grad():
                weight.copy_(torch.from_numpy(left))
            results[f"model.layers.{idx}.{name}"] = result
    return results


def model_vectors(out):
    folder = out.parent / "families" / "llama-untied"

    def wanda(choose):
        def one(weight, x):
            kept = choose(abs(weight) * np.sqrt((x**2).sum(0)))
            return weight * kept, torch.from_numpy(kept.astype(np.uint8))

        return one

    def swept(weight, x):
        _, left, _ = sparse_gpt(weight, x, pattern=(2, 4))
        return left, torch.from_numpy(left).float()

    rules = {
        "wanda": wanda(lambda scores: by_row(scores, 0.5)),
        "wanda_2:4": wanda(lambda scores: in_groups(scores, 2, 4)),
        "sparse_gpt": swept,
    }
    tensors = {"tokens": torch.cat(documents(91, LENGTHS)), "lengths": torch.tensor(LENGTHS)}
    for name, rule in rules.items():
        found = through_a_model(folder, rule)
        tensors.update({f"{name}.{path}": result for path, result in found.items()})
    write_tensors(out / "model.safetensors", tensors)


def parts_vectors(out):
    folder = out.parent / "families" / "llama-untied"
    model = LlamaForCausalLM.from_pretrained(folder, attn_implementation="eager").double().eval()
    layers, config = model.model.layers, model.config
    streams = [[] for _ in range(len(layers) + 1)]
    acts, gates = {}, {}
    counts = {"o_proj": config.num_key_value_heads, "down_proj": config.intermediate_size}

    def enter(idx):
        return lambda module, args: streams[idx].append(args[0][0].detach())

    def gated(idx, name):
        def hook(module, args):
            x = args[0]
            units = x.reshape(*x.shape[:-1], counts[name], -1)
            acts.setdefault((name, idx), []).append(units[0].detach().norm(dim=-1).mean(0) ** 2)
            gate = torch.ones(counts[name], dtype=x.dtype, requires_grad=True)
            gates.setdefault((name, idx), []).append(gate)
            return ((units * gate[:, None]).reshape(x.shape),)

        return hook

    for idx, layer in enumerate(layers):
        layer.register_forward_pre_hook(enter(idx))
        layer.self_attn.o_proj.register_forward_pre_hook(gated(idx, "o_proj"))
        layer.mlp.down_proj.register_forward_pre_hook(gated(idx, "down_proj"))
    model.model.norm.register_forward_pre_hook(enter(len(layers)))
    tokens = documents(91, LENGTHS)
    for one in tokens:
        logits = model(one[None], use_cache=False).logits[0]
        torch.nn.functional.cross_entropy(logits[:-1], one[1:], reduction="sum").backward()
    cosine = torch.nn.functional.cosine_similarity
    pairs = list(zip(streams[:-1], streams[1:]))
    influence = [1 - torch.cat([cosine(a, b, dim=-1) for a, b in zip(*pair)]).mean() for pair in pairs]
    angle = [torch.stack([cosine(a[-1], b[-1], dim=-1).arccos() for a, b in zip(*pair)]).mean() / np.pi for pair in pairs]
    of = lambda name, made: torch.stack([made(name, idx) for idx in range(len(layers))])
    by_act = lambda name, idx: torch.stack(acts[name, idx]).sum(0).sqrt()
    by_gate = lambda name, idx: torch.stack([gate.grad**2 for gate in gates[name, idx]]).sum(0).sqrt()
    tensors = {
        "tokens": torch.cat(tokens),
        "lengths": torch.tensor(LENGTHS),
        "influence": torch.stack(influence),
        "angular": torch.stack(angle),
        "groups.activation": of("o_proj", by_act),
        "groups.taylor": of("o_proj", by_gate),
        "channels.activation": of("down_proj", by_act),
        "channels.taylor": of("down_proj", by_gate),
    }
    write_tensors(out / "parts.safetensors", tensors)


def main():
    out = fresh(output_folder() / "prune")
    generator = torch.Generator().manual_seed(90)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64).numpy()
    weight = draw(OUT, IN)
    # Few directions under much of the noise: columns that can stand in for each other.
    x = draw(TOKENS, 12) @ draw(12, IN) + 0.5 * draw(TOKENS, IN)
    x *= 0.2 + np.arange(IN) % 5
    x[:, DEAD] = 0
    norms = np.sqrt((x**2).sum(0))
    tensors = {"weight": weight, "x": x, "damped": damp(hessian(x)[0], 0.01)}
    size = np.abs(weight)
    tensors["magnitude.matrix"] = keep_all_but(size, int(size.size * 0.35))
    tensors["magnitude.row"] = by_row(size, 0.35)
    tensors["magnitude.2:4"] = in_groups(size, 2, 4)
    halves = np.split(size, 2)
    both = keep_all_but(np.concatenate([half.ravel() for half in halves]), int(size.size * 0.35))
    tensors["magnitude.global"] = both.reshape(size.shape)
    for key, share in {"0.5": 0.5, "0.3": 0.3}.items():
        tensors[f"wanda.{key}"] = by_row(size * norms, share)
    for zeros, of in ((2, 4), (4, 8), (1, 3)):
        tensors[f"wanda.{zeros}:{of}"] = in_groups(size * norms, zeros, of)
    runs = {
        "exact": dict(share=0.5),
        "at_most": dict(share=0.5, at_most=True),
        "blocks": dict(share=0.4, block=20),
        "2:4": dict(pattern=(2, 4), block=16),
        "1:3": dict(pattern=(1, 3), damping=0.1),
    }
    for key, options in runs.items():
        kept, left, loss = sparse_gpt(weight, x, **options)
        tensors[f"sparse_gpt.{key}.kept"] = kept
        tensors[f"sparse_gpt.{key}.weight"] = left
        tensors[f"sparse_gpt.{key}.loss"] = np.array(loss)
    as_torch = lambda a: torch.from_numpy(a.astype(np.uint8) if a.dtype == bool else np.ascontiguousarray(a))
    write_tensors(out / "layer.safetensors", {name: as_torch(value) for name, value in tensors.items()})
    model_vectors(out)
    parts_vectors(out)
    for name, value in paper_numbers().items():
        print(name, value)


if __name__ == "__main__":
    main()
