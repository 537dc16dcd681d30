"""IA3: PEFT's forward and gradients for single layers, and adapters as PEFT saves them.

ia3/layer.safetensors    f64; one linear layer with a bias, widths 37 to 29
  x, weight, bias, dy: what goes in; output.l [29, 1], output.y, output.d_x, output.d_l: scaling outputs;
  input.l [1, 37], input.y, input.d_x, input.d_l: scaling inputs (a feed-forward module); NAME.merged.weight and
  NAME.merged.bias: what merging makes of the layer
ia3/NAME/                over families/llama-biases
  adapter_config.json, adapter_model.safetensors
  golden.safetensors     `tokens.N` i64 [t]; `logits.N`, `merged.logits.N` f32 [t, vocab]; `loss` and
                         `grad.KEY`, the summed next-token cross-entropy and its gradient for each
                         tensor of the adapter file; `merged.PARAMETER`, the merged weights and biases

No vector is of ones. Made with: torch 2.11.0, transformers 5.23.0, peft 0.21.2.
"""

import warnings

import torch
from peft import IA3Config, get_peft_model
from transformers import LlamaForCausalLM

from tiny import documents, fresh, logits, output_folder, save_adapter, summed_cross_entropy, write_tensors

warnings.simplefilter("ignore")

ADAPTERS = {
    # PEFT's own choice for this architecture: k_proj, v_proj, and down_proj by its inputs.
    "default": dict(),
    "everything": dict(
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        feedforward_modules=["o_proj", "up_proj", "down_proj"],
    ),
    "pattern": dict(
        target_modules=r".*\.layers\.1\.(self_attn\.[qk]_proj|mlp\.down_proj)",
        feedforward_modules=r".*\.mlp\.down_proj",
    ),
}


def layer(out):
    torch.manual_seed(90)
    linear = torch.nn.Linear(37, 29).double()
    x = torch.randn(11, 37, dtype=torch.float64, requires_grad=True)
    dy = torch.randn(11, 29, dtype=torch.float64)
    weight, bias = linear.weight.detach().clone(), linear.bias.detach().clone()
    tensors = dict(x=x, weight=weight, bias=bias, dy=dy)
    for name, feedforward in (("output", []), ("input", ["0"])):
        base = torch.nn.Sequential(torch.nn.Linear(37, 29)).double()
        base.load_state_dict({"0.weight": weight, "0.bias": bias})
        config = IA3Config(target_modules=["0"], feedforward_modules=feedforward)
        model = get_peft_model(base, config).double()
        wrapped = model.base_model.model[0]
        scale = wrapped.ia3_l["default"]
        assert torch.equal(scale, torch.ones_like(scale))
        with torch.no_grad():
            scale.add_(0.4 * torch.randn(scale.shape, dtype=torch.float64))
        y = wrapped(x)
        d_x, d_l = torch.autograd.grad(y, (x, scale), dy)
        tensors |= {f"{name}.l": scale, f"{name}.y": y, f"{name}.d_x": d_x, f"{name}.d_l": d_l}
        wrapped.merge()
        merged = wrapped.base_layer
        assert torch.allclose(merged(x), y)
        tensors |= {f"{name}.merged.weight": merged.weight.clone(), f"{name}.merged.bias": merged.bias.clone()}
    write_tensors(out / "ia3/layer.safetensors", tensors)


def base_of(out):
    return LlamaForCausalLM.from_pretrained(out / "families/llama-biases", attn_implementation="eager").float().eval()


def adapter(out, seed, name, options):
    folder = fresh(out / "ia3" / name)
    torch.manual_seed(seed)
    model = get_peft_model(base_of(out), IA3Config(task_type="CAUSAL_LM", **options)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    save_adapter(model, folder)
    docs = documents(500 + seed)
    loss = summed_cross_entropy(model, docs)
    loss.backward()
    golden = {f"tokens.{n}": tokens for n, tokens in enumerate(docs)} | {"loss": loss}
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            golden[f"grad.{key.replace('.default', '')}"] = parameter.grad
    with torch.no_grad():
        before = [logits(base_of(out), tokens) for tokens in docs]
        golden |= {f"logits.{n}": logits(model, tokens) for n, tokens in enumerate(docs)}
        merged = model.merge_and_unload()
        golden |= {f"merged.logits.{n}": logits(merged, tokens) for n, tokens in enumerate(docs)}
    state = merged.state_dict().items()
    golden |= {f"merged.{key}": value for key, value in state if "_proj." in key}
    write_tensors(folder / "golden.safetensors", golden)
    moved = max((golden[f"logits.{n}"] - before[n]).abs().max().item() for n in range(len(docs)))
    apart = max((golden[f"logits.{n}"] - golden[f"merged.logits.{n}"]).abs().max().item() for n in range(len(docs)))
    assert moved > 0.05 and apart < 1e-4, (name, moved, apart)
    print(name, "moves logits by", round(moved, 3))


def main():
    out = output_folder()
    fresh(out / "ia3")
    layer(out)
    for seed, (name, options) in enumerate(ADAPTERS.items()):
        adapter(out, 95 + seed, name, options)


if __name__ == "__main__":
    main()
