"""Adapters as PEFT saves them, what they compute, and which modules PEFT targets.

adapters/base/           the model under all of them (`classifier`: families/llama-classifier-3)
adapters/NAME/
  adapter_config.json, adapter_model.safetensors
  golden.safetensors     `tokens.N` i64 [t]; `logits.N`, `merged.logits.N` f32 [t, vocab]; `loss` and
                         `grad.KEY`, the summed next-token cross-entropy and its gradient for each
                         tensor of the adapter file; some also `merged.PARAMETER`, merged weights
adapters/initial.safetensors
  KIND-SHAPE.{weight,A,B,product,residual}: `pissa` and `olora` of one matrix [out, in]. Singular
  vectors have no sign of their own: compare `product` (scaling · B A) and `residual`, not A and B
  (Householder's QR fixes olora's signs). `KIND-SHAPE.scaling` f64 []
adapters/target_modules.json
  `models`: each model's modules that could be adapted; `rows`: a model, PEFT's options, and either
  `chosen` (name to rank and scaling, in the model's order) or `refused: true`

B is never zero. Made with: torch 2.11.0, transformers 5.23.0, peft 0.21.2.
"""

import warnings

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForSequenceClassification, LlamaConfig
from transformers import LlamaForCausalLM, LlamaForSequenceClassification

from tiny import documents, fresh, logits, output_folder, save_adapter, summed_cross_entropy
from tiny import tiny_llama, write_json, write_tensors

warnings.simplefilter("ignore")

LIST = ["q_proj", "v_proj", "down_proj"]
ADAPTERS = {
    "default": dict(r=4, lora_alpha=10, target_modules="all-linear"),
    "rslora": dict(r=5, lora_alpha=3, target_modules=LIST, use_rslora=True),
    "patterns": dict(
        r=4,
        lora_alpha=8,
        target_modules=LIST + ["o_proj"],
        rank_pattern={"down_proj": 7, r"layers\.0\..*q_proj": 2, "^model.layers.1.self_attn.q_proj": 3},
        alpha_pattern={"v_proj": 5, "model.layers.1.mlp.down_proj": 21},
    ),
    "layers": dict(r=3, lora_alpha=7, target_modules=["k_proj", "up_proj"], layers_to_transform=[1], layers_pattern="layers"),
    "exclude": dict(r=3, lora_alpha=7, target_modules="all-linear", exclude_modules=["layers.0.self_attn.q_proj", "gate_proj"]),
    "regex": dict(r=3, lora_alpha=7, target_modules=r"model\.layers\.\d+\.(self_attn\.[qk]_proj|mlp\.up_proj)"),
    "embedding-head": dict(r=3, lora_alpha=7, target_modules=["embed_tokens", "lm_head", "o_proj"]),
    "modules-to-save": dict(r=3, lora_alpha=7, target_modules=["q_proj"], modules_to_save=["lm_head", "norm"]),
    "rank-above-one-side": dict(r=20, lora_alpha=7, target_modules=["k_proj"]),
    "classifier": dict(r=3, lora_alpha=7, target_modules=["q_proj", "v_proj"], task_type="SEQ_CLS"),
}
WITH_MERGED_WEIGHTS = {"default", "embedding-head"}

ALL = dict(target_modules="all-linear")
TARGETS = [
    ("llama", dict(target_modules=["q_proj", "v_proj"])),
    ("llama", dict(target_modules=["proj"])),
    ("llama", dict(target_modules=["self_attn.q_proj", "model.layers.3.mlp.up_proj"])),
    ("llama", dict(target_modules=["layers.1.mlp.up_proj"])),
    ("llama", dict(target_modules=["ayers.1.mlp.up_proj"])),
    ("llama", dict(target_modules=["q_proj", "no_such_module"])),
    ("llama", dict(target_modules=["no_such_module"])),
    ("llama", dict(target_modules="no_such_module")),
    ("llama", dict(target_modules="q_proj")),
    ("llama", dict(target_modules=r".*q_proj")),
    ("llama", dict(target_modules=r".*\.(1|11)\.(self_attn|mlp)\.(o_proj|down_proj)")),
    ("llama", dict(target_modules=r"model\.layers\.1.*_proj")),
    ("llama", dict(target_modules=r"(?!.*mlp).*_proj")),
    ("llama", ALL),
    ("llama", dict(target_modules="All-Linear")),
    ("llama-tied", ALL),
    ("classifier", dict(ALL, task_type="SEQ_CLS")),
    ("classifier", ALL),
    ("llama", dict(target_modules=["lm_head", "embed_tokens"])),
    ("llama", dict(ALL, exclude_modules=["down_proj", "layers.1.self_attn.q_proj"])),
    ("llama", dict(ALL, exclude_modules=r"model\.layers\.[0-9]\..*")),
    ("llama", dict(ALL, exclude_modules=r"layers\.0")),
    ("llama", dict(target_modules=["q_proj"], exclude_modules=["q_proj"])),
    ("llama", dict(target_modules=["q_proj", "up_proj"], layers_to_transform=[0, 11])),
    ("llama", dict(target_modules=["q_proj"], layers_to_transform=1)),
    ("llama", dict(target_modules=["q_proj"], layers_to_transform=[1], layers_pattern="layers")),
    ("llama", dict(target_modules=["q_proj"], layers_to_transform=[1], layers_pattern=["h", "layers"])),
    ("llama", dict(target_modules=["q_proj"], layers_to_transform=[1], layers_pattern="blocks")),
    ("llama", dict(target_modules=["q_proj"], layers_to_transform=[12])),
    ("llama", dict(target_modules=["q_proj"], layers_to_transform=[])),
    ("llama", dict(target_modules=["q_proj", "lm_head"], layers_to_transform=[2])),
    # A whole name is taken as it stands, whatever the layers.
    ("llama", dict(target_modules=["model.layers.3.mlp.up_proj", "q_proj"], layers_to_transform=[2])),
    ("llama", dict(ALL, layers_to_transform=[2])),
    ("llama", dict(target_modules=r".*q_proj", layers_to_transform=[2])),
    ("llama", dict(ALL, modules_to_save=["lm_head"])),
    ("llama", dict(target_modules=["q_proj", "up_proj"], modules_to_save=["mlp"])),
    ("llama", dict(target_modules=["q_proj"], rank_pattern={"layers.1.self_attn.q_proj": 2}, alpha_pattern={"q_proj": 5})),
    ("llama", dict(target_modules=["q_proj"], rank_pattern={r"layers\.(1|2)\..*": 2, "q_proj": 4})),
    ("llama", dict(target_modules=["q_proj"], rank_pattern={"proj": 2, r".*\.1\.self_attn\.q": 4})),
    ("llama", dict(target_modules=["q_proj"], rank_pattern={"^model.layers.1.self_attn.q_proj": 2}, use_rslora=True)),
]


def base_of(name, out):
    if name == "classifier":
        path = out / "families/llama-classifier-3"
        return AutoModelForSequenceClassification.from_pretrained(path, attn_implementation="eager").eval()
    return tiny_llama(seed=31, tie_word_embeddings=False)


def saved_name(key):
    """The name in `adapter_model.safetensors`."""
    return key.replace(".default", "").replace(".modules_to_save", "")


def adapter(out, seed, name, options):
    folder = fresh(out / "adapters" / name)
    base = base_of(name, out)
    torch.manual_seed(seed)
    model = get_peft_model(base, LoraConfig(**{"task_type": "CAUSAL_LM", **options})).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator) * 0.15
                parameter.copy_(noise if "lora_" in key else parameter + noise)
    save_adapter(model, folder)
    docs = documents(300 + seed)
    golden = {f"tokens.{n}": tokens for n, tokens in enumerate(docs)}
    if name != "classifier":
        loss = summed_cross_entropy(model, docs)
        loss.backward()
        golden["loss"] = loss
        golden |= {f"grad.{saved_name(key)}": p.grad for key, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        before = [logits(base_of(name, out), tokens) for tokens in docs]
        golden |= {f"logits.{n}": logits(model, tokens) for n, tokens in enumerate(docs)}
        merged = model.merge_and_unload()
        golden |= {f"merged.logits.{n}": logits(merged, tokens) for n, tokens in enumerate(docs)}
    if name in WITH_MERGED_WEIGHTS:
        golden |= {f"merged.{key}": value for key, value in merged.state_dict().items()}
    write_tensors(folder / "golden.safetensors", golden)
    moved = max((golden[f"logits.{n}"] - before[n]).abs().max().item() for n in range(len(docs)))
    apart = max((golden[f"logits.{n}"] - golden[f"merged.logits.{n}"]).abs().max().item() for n in range(len(docs)))
    assert moved > 0.05 and apart < 1e-5, (name, moved, apart)
    print(name, "moves logits by", round(moved, 3))


def initial(out):
    tensors = {}
    for kind in ("pissa", "olora"):
        for shape, (rows, columns), rank, rslora in (("tall", (19, 11), 3, False), ("wide", (9, 17), 5, True)):
            torch.manual_seed(rows)
            layer = torch.nn.Sequential(torch.nn.Linear(columns, rows, bias=False))
            weight = layer[0].weight.detach().clone()
            config = LoraConfig(r=rank, lora_alpha=7, target_modules=["0"], init_lora_weights=kind, use_rslora=rslora)
            wrapped = get_peft_model(layer, config).base_model.model[0]
            a, b = wrapped.lora_A["default"].weight, wrapped.lora_B["default"].weight
            scaling = wrapped.scaling["default"]
            place = f"{kind}-{shape}"
            tensors |= {
                f"{place}.weight": weight,
                f"{place}.A": a,
                f"{place}.B": b,
                f"{place}.product": scaling * (b @ a),
                f"{place}.residual": wrapped.base_layer.weight,
                f"{place}.scaling": torch.tensor(scaling, dtype=torch.float64),
            }
            assert torch.allclose(tensors[f"{place}.product"] + tensors[f"{place}.residual"], weight, atol=1e-6)
    write_tensors(out / "adapters/initial.safetensors", tensors)


def targets(out):
    size = dict(vocab_size=9, hidden_size=8, intermediate_size=8, num_attention_heads=2, num_key_value_heads=1)
    config = dict(size, num_hidden_layers=12, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    make = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**config, tie_word_embeddings=False)),
        "llama-tied": lambda: LlamaForCausalLM(LlamaConfig(**config, tie_word_embeddings=True)),
        "classifier": lambda: LlamaForSequenceClassification(LlamaConfig(**config, num_labels=3)),
    }
    leaves = (torch.nn.Linear, torch.nn.Embedding)
    models = {name: [key for key, module in made().named_modules() if isinstance(module, leaves)] for name, made in make.items()}
    rows = []
    for name, options in TARGETS:
        row = dict(model=name, options=options)
        try:
            wrapped = get_peft_model(make[name](), LoraConfig(**{"r": 3, "lora_alpha": 7, **options}))
        except ValueError:
            row["refused"] = True
        else:
            prefix = "base_model.model."
            row["chosen"] = {
                key.removeprefix(prefix): dict(r=module.r["default"], scaling=module.scaling["default"])
                for key, module in wrapped.named_modules()
                if isinstance(module, LoraLayer)
            }
        rows.append(row)
        print(options, "refused" if "refused" in row else len(row["chosen"]))
    write_json(out / "adapters/target_modules.json", dict(r=3, lora_alpha=7, models=models, rows=rows))


def main():
    out = output_folder()
    fresh(out / "adapters")
    base_of("base", out).save_pretrained(out / "adapters/base")
    (out / "adapters/base/generation_config.json").unlink()
    for seed, (name, options) in enumerate(ADAPTERS.items()):
        adapter(out, 40 + seed, name, options)
    initial(out)
    targets(out)


if __name__ == "__main__":
    main()
