"""DoRA: PEFT's forward and gradients for one layer, the exact mode's by autograd, and adapters as PEFT saves them.

dora/layer.safetensors   f64; one linear layer with a bias, widths 37 to 29, rank 5
  x, weight, bias, A, B, magnitude, scaling, dy: what goes in; y, d_x, d_A, d_B, d_magnitude: what PEFT
  computes, its norm held constant; exact.d_A, exact.d_B: with the gradient through the norm (y, d_x and
  d_magnitude are the same); dropped, dropped.y: `x` as a dropout of 0.4 left it and PEFT's output then
dora/NAME/               over families/llama-biases
  adapter_config.json, adapter_model.safetensors
  golden.safetensors     `tokens.N` i64 [t]; `logits.N`, `merged.logits.N` f32 [t, vocab]; `loss` and
                         `grad.KEY`, the summed next-token cross-entropy and its gradient for each
                         tensor of the adapter file; `merged.PARAMETER`, the merged weights

B is never zero. Made with: torch 2.11.0, transformers 5.23.0, peft 0.21.2.
"""

import warnings

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

from tiny import documents, fresh, logits, output_folder, save_adapter, summed_cross_entropy, write_tensors

warnings.simplefilter("ignore")

ADAPTERS = {
    "all-linear": dict(r=4, lora_alpha=10, target_modules="all-linear"),
    "patterns": dict(
        r=3,
        lora_alpha=7,
        target_modules=["q_proj", "v_proj", "down_proj", "lm_head"],
        rank_pattern={"down_proj": 6},
        alpha_pattern={"v_proj": 5},
        use_rslora=True,
    ),
}


def equation(x, weight, bias, a, b, m, s, hold_norm):
    """The output as the paper writes it; `hold_norm` takes the norm out of the graph."""
    direction = weight + s * b @ a
    norm = direction.norm(dim=1)
    return x @ ((m / (norm.detach() if hold_norm else norm))[:, None] * direction).T + bias


class Given(torch.nn.Module):
    """A dropout whose result is given."""

    def __init__(self, result):
        super().__init__()
        self.result = result

    def forward(self, x):
        return self.result


def layer(out):
    torch.manual_seed(70)
    base = torch.nn.Sequential(torch.nn.Linear(37, 29)).double()
    model = get_peft_model(base, LoraConfig(r=5, lora_alpha=12.5, target_modules=["0"], use_dora=True)).double()
    wrapped = model.base_model.model[0]
    a, b = wrapped.lora_A["default"].weight, wrapped.lora_B["default"].weight
    m = wrapped.lora_magnitude_vector["default"].weight
    with torch.no_grad():
        b.copy_(torch.randn(29, 5, dtype=torch.float64) * 0.3)
        m.mul_(1 + 0.3 * torch.randn(29, dtype=torch.float64))
    x = torch.randn(11, 37, dtype=torch.float64, requires_grad=True)
    dy = torch.randn(11, 29, dtype=torch.float64)
    y = wrapped(x)
    grads = torch.autograd.grad(y, (x, a, b, m), dy)
    s, weight, bias = wrapped.scaling["default"], wrapped.base_layer.weight, wrapped.base_layer.bias
    for hold_norm in (True, False):
        again = equation(x, weight, bias, a, b, m, s, hold_norm)
        exact = torch.autograd.grad(again, (x, a, b, m), dy)
        assert torch.allclose(again, y, atol=1e-12)
        for ours, theirs, same in zip(exact, grads, (True, hold_norm, hold_norm, True)):
            assert torch.allclose(ours, theirs, atol=1e-10) == same
    dropped = torch.nn.functional.dropout(x.detach(), 0.4)
    wrapped.lora_dropout["default"] = Given(dropped)
    wrapped.train()
    tensors = dict(x=x, weight=weight, bias=bias, A=a, B=b, magnitude=m, dy=dy, y=y, dropped=dropped)
    tensors |= dict(zip(("d_x", "d_A", "d_B", "d_magnitude"), grads))
    tensors |= {"exact.d_A": exact[1], "exact.d_B": exact[2], "dropped.y": wrapped(x)}
    write_tensors(out / "dora/layer.safetensors", tensors | {"scaling": torch.tensor(s, dtype=torch.float64)})


def base_of(out):
    return LlamaForCausalLM.from_pretrained(out / "families/llama-biases", attn_implementation="eager").float().eval()


def adapter(out, seed, name, options):
    folder = fresh(out / "dora" / name)
    torch.manual_seed(seed)
    model = get_peft_model(base_of(out), LoraConfig(task_type="CAUSAL_LM", use_dora=True, **options)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator) * 0.15
                parameter.copy_(parameter * (1 + noise) if "magnitude" in key else noise)
    save_adapter(model, folder)
    docs = documents(400 + seed)
    loss = summed_cross_entropy(model, docs)
    loss.backward()
    golden = {f"tokens.{n}": tokens for n, tokens in enumerate(docs)} | {"loss": loss}
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            # As in the file: no adapter's name, and a magnitude without `.weight`.
            key = key.replace(".default", "").replace("magnitude_vector.weight", "magnitude_vector")
            golden[f"grad.{key}"] = parameter.grad
    with torch.no_grad():
        before = [logits(base_of(out), tokens) for tokens in docs]
        golden |= {f"logits.{n}": logits(model, tokens) for n, tokens in enumerate(docs)}
        merged = model.merge_and_unload()
        golden |= {f"merged.logits.{n}": logits(merged, tokens) for n, tokens in enumerate(docs)}
    golden |= {f"merged.{key}": value for key, value in merged.state_dict().items() if key.endswith("proj.weight")}
    write_tensors(folder / "golden.safetensors", golden)
    moved = max((golden[f"logits.{n}"] - before[n]).abs().max().item() for n in range(len(docs)))
    apart = max((golden[f"logits.{n}"] - golden[f"merged.logits.{n}"]).abs().max().item() for n in range(len(docs)))
    assert moved > 0.05 and apart < 1e-5, (name, moved, apart)
    print(name, "moves logits by", round(moved, 3))


def main():
    out = output_folder()
    fresh(out / "dora")
    layer(out)
    for seed, (name, options) in enumerate(ADAPTERS.items()):
        adapter(out, 80 + seed, name, options)


if __name__ == "__main__":
    main()
