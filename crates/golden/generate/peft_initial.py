"""Adapters as PEFT saves them after each of its initialisations, and what PEFT computes when it loads them again.

init/NAME/
  adapter_config.json, adapter_model.safetensors
  golden.safetensors     `tokens.N` i64 [t]; `logits.N`, `merged.logits.N` f32 [t, vocab] of the adapter loaded anew over
                         adapters/base: `pissa` and `olora` take their first update out of the base then

Factors are moved away from where they began, so that a base that is taken as it is gives other logits: `untouched.N`,
what one says who passes over the initialisation. `pissa-iterations` iterates until the decomposition is exact.
Made with: torch 2.11.0, transformers 5.23.0, peft 0.21.2.
"""

import json
import warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import EvaConfig

from tiny import documents, fresh, logits, output_folder, save_adapter, tiny_llama, write_tensors

warnings.simplefilter("ignore")

LIST = ["q_proj", "v_proj", "down_proj"]
PATTERNS = dict(rank_pattern={"down_proj": 7, r"layers\.0\..*q_proj": 2}, alpha_pattern={"v_proj": 5})
INITIAL = {
    "gaussian": dict(init_lora_weights="gaussian"),
    "random": dict(init_lora_weights=False),
    "orthogonal": dict(init_lora_weights="orthogonal"),
    "eva": dict(init_lora_weights="eva", eva_config=EvaConfig()),
    "pissa": dict(init_lora_weights="pissa"),
    "pissa-all": dict(init_lora_weights="pissa", use_rslora=True, target_modules="all-linear", **PATTERNS),
    "pissa-table": dict(init_lora_weights="pissa", target_modules=LIST + ["embed_tokens"]),
    "pissa-dora": dict(init_lora_weights="pissa", use_dora=True),
    "pissa-iterations": dict(init_lora_weights="pissa_niter_3000", target_modules=["k_proj"]),
    "olora": dict(init_lora_weights="olora"),
    "olora-patterns": dict(init_lora_weights="olora", target_modules=LIST + ["lm_head"], **PATTERNS),
}
MOVES_BASE = ("pissa", "olora")


def base():
    return tiny_llama(seed=31, tie_word_embeddings=False)


def adapter(out, seed, name, options):
    folder = fresh(out / "init" / name)
    torch.manual_seed(seed)
    options = {"r": 4, "lora_alpha": 7, "target_modules": LIST, "task_type": "CAUSAL_LM", **options}
    model = get_peft_model(base(), LoraConfig(**options)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    save_adapter(model, folder)
    docs = documents(500 + seed)
    golden = {f"tokens.{n}": tokens for n, tokens in enumerate(docs)}
    torch.manual_seed(seed + 1)
    with torch.no_grad():
        loaded = PeftModel.from_pretrained(base(), folder).eval()
        golden |= {f"logits.{n}": logits(loaded, tokens) for n, tokens in enumerate(docs)}
        merged = loaded.merge_and_unload()
        golden |= {f"merged.logits.{n}": logits(merged, tokens) for n, tokens in enumerate(docs)}
        # The same file under a configuration that says nothing of its beginning.
        path = folder / "adapter_config.json"
        text = path.read_text()
        path.write_text(json.dumps(json.loads(text) | {"init_lora_weights": True, "eva_config": None}))
        plain = PeftModel.from_pretrained(base(), folder).eval()
        path.write_text(text)
        golden |= {f"untouched.{n}": logits(plain, tokens) for n, tokens in enumerate(docs)}
    write_tensors(folder / "golden.safetensors", golden)
    apart = max((golden[f"logits.{n}"] - golden[f"untouched.{n}"]).abs().max().item() for n in range(len(docs)))
    assert (apart > 0.1) == name.startswith(MOVES_BASE), (name, apart)
    print(name, "differs from an untouched base by", round(apart, 3))


def main():
    out = output_folder()
    fresh(out / "init")
    for seed, (name, options) in enumerate(INITIAL.items()):
        adapter(out, 80 + seed, name, options)


if __name__ == "__main__":
    main()
