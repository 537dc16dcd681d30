"""Plain f64 references of every kernel, with gradients, on odd sizes.

kernels/NAME.safetensors, all f64 unless told: inputs, `y` (or named outputs), `dy` the gradient that
comes in, and `d_INPUT` the gradients that go out. Shapes: t tokens, d model width, f feed-forward
width, v vocabulary, h heads, k key/value heads, e head width, n documents.

  rms_norm, rms_norm_gemma   x [t, d], weight [d], eps []; gemma multiplies by 1 + weight
  rope                       x [t, h, e], inv_freq [e/2], positions i64 [t], factor [] (on cos and
                             sin); halves rotate: (x1, x2) to (x1 cos - x2 sin, x2 cos + x1 sin)
  swiglu, geglu              gate, up [t, f]: silu(gate) * up, gelu_tanh(gate) * up
  attention-KIND             q [t, h, e], key, value [t, k, e], starts i64 [n + 1], scale []; window i64 []
                             (0: none; w: a token sees itself and the w - 1 before it); y [t, h, e],
                             log_sum_exp [t, h]
  linear_cross_entropy       hidden [t, d], weight [v, d], targets i64 [t] (-100: not trained),
                             weights [t]; loss [] = sum weights * -log p; token_log_probs [t]
                             (0 where not trained); d_hidden, d_weight of `loss` (dy = 1),
                             bias [v] and its d_bias in -bias
  linear_cross_entropy-softcap  logits are cap * tanh(logits / cap), cap []
  linear, linear-bias        x [t, d], weight [f, d], bias [f]
  lora                       x [t, d], weight [f, d], A [r, d], B [f, r], scaling []
  adamw                      parameter.N, gradient.N, first.N, second.N for the states after step N
                             (0: before; gradient.N is what step N takes); learning_rate [steps],
                             beta1, beta2, eps, weight_decay []
  clip                       gradient.0 .. gradient.2, max_norm [], norm [], clipped.0 .. clipped.2

Made with: torch 2.11.0.
"""

import math

import torch
import torch.nn.functional as F

from tiny import fresh, output_folder, write_tensors


class Case:
    """Inputs drawn from one seed, outputs, and gradients."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)
        self.tensors = {}

    def draw(self, name, *shape, std=1.0, mean=0.0):
        value = torch.randn(shape, generator=self.generator, dtype=torch.float64) * std + mean
        # What f32 holds exactly, so that a test in f32 starts from the same numbers.
        self.tensors[name] = value.float().double().requires_grad_()
        return self.tensors[name]

    def store(self, **values):
        for name, value in values.items():
            self.tensors[name] = value if torch.is_tensor(value) else torch.tensor(value, dtype=torch.float64)

    def backward(self, y):
        dy = torch.randn(y.shape, generator=self.generator, dtype=torch.float64).float().double()
        inputs = {name: value for name, value in self.tensors.items() if value.requires_grad}
        gradients = torch.autograd.grad(y, list(inputs.values()), dy)
        self.store(y=y, dy=dy, **{f"d_{name}": value for name, value in zip(inputs, gradients, strict=True)})
        return self.tensors


def rms_norm(seed, gemma):
    case = Case(seed)
    x, weight = case.draw("x", 7, 37), case.draw("weight", 37, std=0.3, mean=0.0 if gemma else 1.0)
    case.store(eps=1e-2)
    y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-2) * (1.0 + weight if gemma else weight)
    return case.backward(y)


def rope(seed):
    case = Case(seed)
    x = case.draw("x", 11, 3, 10)
    positions = torch.tensor([0, 1, 2, 3, 4, 0, 1, 0, 1, 500, 1001])
    inv_freq = 1.0 / 10000.0 ** (torch.arange(0, 10, 2, dtype=torch.float64) / 10)
    inv_freq = inv_freq.float().double()
    factor = 1.125
    case.store(positions=positions, inv_freq=inv_freq, factor=factor)
    angle = positions[:, None, None].double() * inv_freq
    cos, sin = factor * angle.cos(), factor * angle.sin()
    x1, x2 = x.chunk(2, dim=-1)
    return case.backward(torch.cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin], dim=-1))


def gated(seed, act):
    case = Case(seed)
    gate, up = case.draw("gate", 7, 53, std=2.5), case.draw("up", 7, 53)
    return case.backward(act(gate) * up)


def attention(seed, heads, kv, width, lengths, window):
    case = Case(seed)
    t = sum(lengths)
    q, key, value = case.draw("q", t, heads, width), case.draw("key", t, kv, width), case.draw("value", t, kv, width)
    scale = float(torch.tensor(1.3 / math.sqrt(width)).float())
    starts = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    outputs, sums = [], []
    for begin, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        k = key[begin:end].repeat_interleave(heads // kv, dim=1)
        v = value[begin:end].repeat_interleave(heads // kv, dim=1)
        scores = torch.einsum("ihe,jhe->hij", q[begin:end], k) * scale
        distance = torch.arange(end - begin)[:, None] - torch.arange(end - begin)[None, :]
        seen = (distance >= 0) & ((distance < window) if window else True)
        scores = scores.masked_fill(~seen, -math.inf)
        outputs.append(torch.einsum("hij,jhe->ihe", scores.softmax(-1), v))
        sums.append(scores.logsumexp(-1).T)
    case.store(starts=starts, window=torch.tensor(window), scale=scale)
    tensors = case.backward(torch.cat(outputs))
    tensors["log_sum_exp"] = torch.cat(sums)
    return tensors


def linear_cross_entropy(seed, biased=False, cap=None):
    case = Case(seed)
    t, d, v = 13, 19, 101
    hidden, weight = case.draw("hidden", t, d), case.draw("weight", v, d, std=0.6)
    logits = hidden @ weight.T
    if biased:
        logits = logits + case.draw("bias", v)
    if cap:
        case.store(cap=cap)
        logits = cap * torch.tanh(logits / cap)
    targets = torch.randint(0, v, (t,), generator=case.generator)
    targets[[0, 4, 12]] = -100
    targets[5], targets[6] = 0, v - 1
    weights = torch.rand(t, generator=case.generator, dtype=torch.float64).float().double() + 0.25
    log_probs = -F.cross_entropy(logits, targets, reduction="none", ignore_index=-100)
    loss = -(weights * log_probs).sum()
    inputs = {name: value for name, value in case.tensors.items() if value.requires_grad}
    gradients = torch.autograd.grad(loss, list(inputs.values()))
    case.store(targets=targets, weights=weights, loss=loss, token_log_probs=log_probs)
    case.store(**{f"d_{name}": value for name, value in zip(inputs, gradients, strict=True)})
    return case.tensors


def linear(seed, biased):
    case = Case(seed)
    x, weight = case.draw("x", 7, 37), case.draw("weight", 29, 37, std=0.3)
    y = x @ weight.T
    return case.backward(y + case.draw("bias", 29) if biased else y)


def lora(seed):
    case = Case(seed)
    x, weight = case.draw("x", 7, 37), case.draw("weight", 29, 37, std=0.3)
    a, b = case.draw("A", 5, 37, std=0.3), case.draw("B", 29, 5, std=0.3)
    case.store(scaling=2.5)
    return case.backward(x @ weight.T + 2.5 * (x @ a.T) @ b.T)


def adamw(seed):
    case = Case(seed)
    steps, lr = 5, [0.0, 1e-2, 7e-3, 1e-3, 2e-2]
    beta1, beta2, eps, decay = 0.9, 0.98, 1e-6, 0.1
    parameter = case.draw("parameter.0", 9, 7).detach().clone().requires_grad_()
    optimizer = torch.optim.AdamW([parameter], lr=1.0, betas=(beta1, beta2), eps=eps, weight_decay=decay)
    case.store(**{"first.0": torch.zeros_like(parameter), "second.0": torch.zeros_like(parameter)})
    for step in range(1, steps + 1):
        parameter.grad = case.draw(f"gradient.{step}", 9, 7, std=10.0 ** (2 - step)).detach()
        optimizer.param_groups[0]["lr"] = lr[step - 1]
        optimizer.step()
        state = optimizer.state[parameter]
        after = {"parameter": parameter, "first": state["exp_avg"], "second": state["exp_avg_sq"]}
        case.store(**{f"{name}.{step}": value.detach().clone() for name, value in after.items()})
    case.store(learning_rate=torch.tensor(lr, dtype=torch.float64), beta1=beta1, beta2=beta2, eps=eps, weight_decay=decay)
    return case.tensors


def clip(seed):
    case = Case(seed)
    parameters = []
    for n, shape in enumerate(((5, 7), (11,), (1, 3, 2))):
        gradient = case.draw(f"gradient.{n}", *shape)
        parameters.append(torch.zeros_like(gradient).requires_grad_())
        parameters[-1].grad = gradient.detach().clone()
    case.store(max_norm=0.7, norm=torch.nn.utils.clip_grad_norm_(parameters, 0.7))
    case.store(**{f"clipped.{n}": p.grad for n, p in enumerate(parameters)})
    return case.tensors


def main():
    out = fresh(output_folder() / "kernels")
    mixed = (5, 1, 17, 2)
    cases = {
        "rms_norm": rms_norm(1, False),
        "rms_norm_gemma": rms_norm(2, True),
        "rope": rope(3),
        "swiglu": gated(4, F.silu),
        "geglu": gated(5, lambda x: F.gelu(x, approximate="tanh")),
        "attention-equal-heads": attention(6, 3, 3, 10, mixed, 0),
        "attention-grouped": attention(7, 6, 2, 8, mixed, 0),
        "attention-one-kv": attention(8, 5, 1, 12, (9,), 0),
        "attention-window": attention(9, 4, 2, 6, mixed, 4),
        "attention-window-1": attention(10, 4, 2, 6, (3, 4), 1),
        "attention-head-64": attention(11, 2, 1, 64, (70, 7), 0),
        "attention-head-64-window": attention(12, 2, 1, 64, (70, 7), 33),
        "linear_cross_entropy": linear_cross_entropy(13),
        "linear_cross_entropy-bias": linear_cross_entropy(14, biased=True),
        "linear_cross_entropy-softcap": linear_cross_entropy(15, cap=3.0),
        "linear": linear(16, False),
        "linear-bias": linear(17, True),
        "lora": lora(18),
        "adamw": adamw(19),
        "clip": clip(20),
    }
    for name, tensors in cases.items():
        write_tensors(out / f"{name}.safetensors", tensors)


if __name__ == "__main__":
    main()
