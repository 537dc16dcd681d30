"""What both sides of the comparison read: the model as a Hugging Face directory, and rows of 512 tokens.

The rows are web text, cut so that tokenising a row gives exactly `--tokens` tokens again.
"""

import argparse
import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

transformers.logging.disable_progress_bar()


def rows(tokenizer, paragraphs, tokens, count):
    """`count` texts of exactly `tokens` tokens."""
    found, text = [], ""
    for paragraph in paragraphs:
        text = f"{text}\n\n{paragraph}" if text else paragraph
        ids = tokenizer(text, add_special_tokens=False).input_ids
        if len(ids) < tokens:
            continue
        row, text = tokenizer.decode(ids[:tokens]), ""
        if len(tokenizer(row, add_special_tokens=False).input_ids) == tokens:
            found.append(row)
        if len(found) == count:
            return found
    raise SystemExit(f"only {len(found)} of {count} rows could be cut")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True, help="openwebtext.jsonl")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--rows", type=int, default=160)
    options = parser.parse_args()
    folder, name = options.gguf.parent, options.gguf.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.bfloat16)
    # Transformers does not save what it read from GGUF; the same weights in a model of their own it does.
    config = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(options.out / "model")
    tokenizer.save_pretrained(options.out / "model")
    paragraphs = [json.loads(line)["0"] for line in options.text.open(encoding="utf-8")]
    with (options.out / "rows.jsonl").open("w", encoding="utf-8") as file:
        for row in rows(tokenizer, paragraphs, options.tokens, options.rows):
            file.write(json.dumps({"text": row}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
