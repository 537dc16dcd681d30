"""What Transformers makes of logits before it samples, and what tiny models generate greedily.

sampling.json     a list of `logits` [v], `previous` (token ids so far), `options`, and `probabilities`
                  [v] f32 that the next token is drawn from
generation.json   a list of `model` (a folder of families/), `prompt` and `tokens`, the 20 new greedy
                  ones (no end token stops them; cached), `smallest_margin` between the two best
                  logits of any step (at least 0.002); `options`: repetition penalty, where there is one

Made with: torch 2.11.0, transformers 5.23.0.
"""

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from tiny import documents, output_folder, tiny_llama, write_json

OPTIONS = [
    dict(),
    dict(temperature=0.5),
    dict(temperature=1.7),
    dict(top_k=1),
    dict(top_k=5),
    dict(top_k=500),
    dict(top_p=0.9),
    dict(top_p=0.3),
    dict(top_p=0.01),
    dict(min_p=0.1),
    dict(min_p=0.9),
    dict(repetition_penalty=1.3),
    dict(repetition_penalty=0.7),
    dict(temperature=0.6, top_k=9, top_p=0.8),
    dict(temperature=1.4, top_k=12, top_p=0.95, min_p=0.05),
    dict(temperature=0.8, top_p=0.9, repetition_penalty=1.2),
    dict(temperature=1.5, top_k=4, top_p=0.7, min_p=0.2, repetition_penalty=1.5),
]

MODELS = ["llama-tied", "llama-rope-llama3", "mistral-window", "qwen2-window", "qwen3-tied", "gemma3"]


def sampling():
    model = tiny_llama()
    generator = torch.Generator().manual_seed(71)
    table = []
    for index, options in enumerate(OPTIONS):
        logits = torch.randn(1, 17, generator=generator) * 2
        if index == 4:
            # Equal logits at the cut: a k-th value that is reached twice keeps both.
            logits[0, [2, 3, 5, 7, 11, 13]] = 4.0
        previous = torch.tensor([[3, 5, 3, 16]])
        off = dict(do_sample=True, temperature=1.0, top_k=0, top_p=1.0)
        processors = model._get_logits_processor(GenerationConfig(**{**off, **options}), input_ids_seq_length=4)
        probabilities = processors(previous, logits.clone()).softmax(-1)
        table.append(
            dict(
                options=options,
                previous=previous[0].tolist(),
                logits=logits[0].tolist(),
                probabilities=probabilities[0].tolist(),
            )
        )
        print(options, int((probabilities > 0).sum()), "kept")
    return table


def generate(model, prompt, **options):
    config = GenerationConfig(max_new_tokens=20, do_sample=False, use_cache=True, pad_token_id=0, **options)
    model.generation_config = config
    out = model.generate(prompt[None], generation_config=config, output_logits=True, output_scores=True, return_dict_in_generate=True)
    best = [scores[0].topk(2).values for scores in out.scores]
    margin = min((a - b).item() for a, b in best)
    tokens = out.sequences[0, len(prompt):].tolist()
    assert len(tokens) == 20
    if margin < 2e-3:
        return None
    return dict(prompt=prompt.tolist(), options=options, tokens=tokens, smallest_margin=margin)


def main():
    out = output_folder()
    write_json(out / "sampling.json", sampling())
    table = []
    for seed, name in enumerate(MODELS):
        path = out / "families" / name
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
        for length, options in ((5, {}), (2, {}), (11, {}), (4, dict(repetition_penalty=1.3))):
            tries = (generate(model, documents(400 + seed + 50 * n, (length,))[0], **options) for n in range(20))
            table.append(dict(model=name, **next(row for row in tries if row)))
        print(name, [(row["tokens"][:8], round(row["smallest_margin"], 4)) for row in table[-4:]])
    write_json(out / "generation.json", table)


if __name__ == "__main__":
    main()
