"""GGUF: every block type dequantised, and a tiny model with its tokenizer.

gguf/blocks.safetensors   TYPE.bytes u8 [rows, bytes], TYPE.values f32 [rows, numbers]: random blocks,
                          sane scales, dequantised by llama.cpp's own Python package
gguf/tiny.gguf            a llama whose matrices are F32, F16, BF16 and Q8_0 in turn, q and k rows permuted as
                          llama.cpp does, with a byte-level BPE tokenizer and a chat template
gguf/tiny/                the same model (dequantised, f32) and tokenizer as Transformers writes them
gguf/golden.safetensors   tokens.N, logits.N of that model for three documents
gguf/texts.json           texts with their token ids

Made with: torch 2.11.0, transformers 5.23.0, gguf 0.19.0, tokenizers 0.23.3.
"""

import json

import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from gguf import GGUFWriter, TokenType, quants
from gguf.constants import GGML_QUANT_SIZES
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tiny import SHAPE, documents, fresh, logits, output_folder, randomise, write_json, write_tensors

# Where a block holds its f16 scales, in bytes.
SCALES = {
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q8_0": [0],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
}
ROWS, BLOCKS = 3, 2
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXT = (
    "The Roman Empire was one of the largest empires in the ancient world. "
    "At its height it controlled most of Europe, and its capital city was Rome."
)
TEXTS = [
    TEXT,
    "",
    " ",
    "the  the\n\n\tthe",
    "In 1969 they're 3.14 or 007, aren't WE'LL?",
    "Ünïcödé — 東京 🦀 naïve",
    "<|im_start|>user\nWhat is 12?<|im_end|>\n",
    "x<|im_end|>y <|im_end|> z",
]
TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def blocks():
    random = np.random.default_rng(81)
    tensors = {}
    for name, places in SCALES.items():
        size, width = GGML_QUANT_SIZES[Type[name]]
        data = random.integers(0, 256, (ROWS, BLOCKS, width), dtype=np.uint8)
        for place in places:
            scale = random.normal(0.0, 0.02, (ROWS, BLOCKS, 1)).astype(np.float16)
            data[:, :, place : place + 2] = scale.view(np.uint8)
        data = data.reshape(ROWS, BLOCKS * width)
        tensors[f"{name}.bytes"] = torch.from_numpy(data)
        tensors[f"{name}.values"] = torch.from_numpy(quants.dequantize(data, Type[name]).copy())
        assert tensors[f"{name}.values"].shape == (ROWS, BLOCKS * size)
    for name, dtype in (("F16", torch.float16), ("BF16", torch.bfloat16)):
        values = torch.from_numpy(random.normal(0.0, 1.0, (ROWS, 33)).astype(np.float32)).to(dtype)
        tensors[f"{name}.bytes"] = values.view(torch.uint8).clone()
        tensors[f"{name}.values"] = values.float()
    return tensors


def tokenizer():
    """SmolLM2's kind: single digits split off, then GPT-2's bytes."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = [AddedToken(text, special=True, normalized=False) for text in SPECIAL]
    trainer = trainers.BpeTrainer(vocab_size=311, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator([TEXT] * 3, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token=SPECIAL[1],
        eos_token=SPECIAL[2],
        unk_token=SPECIAL[0],
        pad_token=SPECIAL[2],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = TEMPLATE
    return fast


def permuted(weight, heads):
    """Rows as llama.cpp orders q and k: its rotations pair neighbours, Transformers' pair halves."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name):
    stem = name.removesuffix(".weight")
    if stem in NAMES:
        return NAMES[stem] + ".weight"
    _, _, layer, rest = stem.split(".", 3)
    return f"blk.{layer}.{NAMES[rest]}.weight"


def write_gguf(path, model, fast):
    """Writes the model, and puts what the file holds back into `model`."""
    config = model.config
    writer = GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    body = json.loads(fast.backend_tokenizer.to_str())["model"]
    vocabulary = sorted(body["vocab"], key=body["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(vocabulary)
    writer.add_token_types([TokenType.CONTROL if text in SPECIAL else TokenType.NORMAL for text in vocabulary])
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in body["merges"]])
    writer.add_bos_token_id(fast.bos_token_id)
    writer.add_eos_token_id(fast.eos_token_id)
    writer.add_unk_token_id(fast.unk_token_id)
    writer.add_pad_token_id(fast.pad_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    kinds = [Type.Q8_0, Type.F16, Type.BF16, Type.F32]
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for index, (name, parameter) in enumerate(model.named_parameters()):
        values = parameter.detach().numpy()
        swapped = next((count for key, count in heads.items() if key in name), None)
        kind = Type.F32 if values.ndim == 1 else kinds[index % len(kinds)]
        if kind == Type.Q8_0 and values.shape[1] % 32:
            kind = Type.F16
        stored = quants.quantize(permuted(values, swapped) if swapped else values, kind)
        writer.add_tensor(gguf_name(name), stored, raw_dtype=kind)
        # Within a row every type is the same for both orders, so the plain order dequantises alike.
        held = quants.dequantize(quants.quantize(values, kind), kind)
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(held.copy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    out = fresh(output_folder() / "gguf")
    write_tensors(out / "blocks.safetensors", blocks())
    fast = tokenizer()
    ids = dict(bos_token_id=fast.bos_token_id, eos_token_id=fast.eos_token_id, pad_token_id=fast.pad_token_id)
    config = LlamaConfig(**{**SHAPE, **ids, "vocab_size": len(fast), "tie_word_embeddings": True, "rms_norm_eps": 1e-5})
    model = randomise(LlamaForCausalLM(config), 82)
    write_gguf(out / "tiny.gguf", model, fast)
    model.save_pretrained(out / "tiny")
    (out / "tiny/generation_config.json").unlink()
    fast.save_pretrained(out / "tiny")
    docs = documents(83, vocab=len(fast))
    golden = {f"tokens.{n}": tokens for n, tokens in enumerate(docs)}
    golden |= {f"logits.{n}": logits(model, tokens) for n, tokens in enumerate(docs)}
    write_tensors(out / "golden.safetensors", golden)
    write_json(out / "texts.json", [dict(text=text, ids=fast(text)["input_ids"]) for text in TEXTS])
    # Transformers' own reader of GGUF gives the same logits and ids.
    read = LlamaForCausalLM.from_pretrained(out, gguf_file="tiny.gguf", dtype=torch.float32, attn_implementation="eager")
    for tokens in docs:
        assert torch.allclose(logits(read.eval(), tokens), logits(model, tokens), atol=1e-5)
    again = AutoTokenizer.from_pretrained(out, gguf_file="tiny.gguf")
    for text in TEXTS:
        if again(text)["input_ids"] != fast(text)["input_ids"]:
            print("Transformers' GGUF tokenizer differs on", repr(text), "(it does not split digits)")


if __name__ == "__main__":
    main()
