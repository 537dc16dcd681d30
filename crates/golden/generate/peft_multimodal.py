"""An adapter that PEFT saved of the text model of a multimodal Gemma 3, and what it computes on text.

multimodal/base/          a tiny Gemma3ForConditionalGeneration, pictures and all
multimodal/text/          adapter_config.json, adapter_model.safetensors: the text model's projections alone
  golden.safetensors      `tokens.N` i64 [t]; `logits.N` f32 [t, vocab]
multimodal/everything/    the same with updates of the vision tower's projections too

Made with: torch 2.11.0, transformers 5.23.0, peft 0.21.2.
"""

import warnings

import torch
import transformers
from peft import LoraConfig, get_peft_model

from tiny import VOCAB, documents, fresh, logits, output_folder, randomise, save_adapter, write_tensors

warnings.simplefilter("ignore")

ADAPTERS = {
    "text": dict(
        target_modules=r".*language_model.*\.(q_proj|up_proj)",
        rank_pattern={r"model\.language_model\.layers\.1\..*": 2},
        alpha_pattern={r"language_model\.layers\.0\.self_attn\.q_proj": 5},
    ),
    "everything": dict(target_modules=["q_proj", "v_proj"]),
}


def base():
    text = dict(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=128, sliding_window=8, query_pre_attn_scalar=8,
        bos_token_id=1, eos_token_id=2, pad_token_id=0, layer_types=["sliding_attention", "full_attention"],
    )
    vision = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4)
    config = transformers.Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=1, image_token_index=96, boi_token_index=95,
        eoi_token_index=94, attn_implementation="eager",
    )
    return randomise(transformers.Gemma3ForConditionalGeneration(config), 61)


def adapter(out, seed, name, options):
    folder = fresh(out / "multimodal" / name)
    model = get_peft_model(base(), LoraConfig(r=3, lora_alpha=7, task_type="CAUSAL_LM", **options)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.15)
        save_adapter(model, folder)
        docs = [tokens % 90 + 3 for tokens in documents(600 + seed)]
        golden = {f"tokens.{n}": tokens for n, tokens in enumerate(docs)}
        golden |= {f"logits.{n}": logits(model, tokens) for n, tokens in enumerate(docs)}
        plain = base()
        moved = max((golden[f"logits.{n}"] - logits(plain, tokens)).abs().max().item() for n, tokens in enumerate(docs))
    assert moved > 0.05, (name, moved)
    write_tensors(folder / "golden.safetensors", golden)
    print(name, "moves logits by", round(moved, 3))


def main():
    out = output_folder()
    base().save_pretrained(fresh(out / "multimodal" / "base"))
    (out / "multimodal/base/generation_config.json").unlink(missing_ok=True)
    for seed, (name, options) in enumerate(ADAPTERS.items()):
        adapter(out, seed, name, options)


if __name__ == "__main__":
    main()
