"""Tiny random models that every generator shares, and the way vectors are written.

Weights are drawn with a standard deviation of 0.2, norms and biases included, so that every
parameter and every option shows in the logits. One thread, f32, eager attention, fixed seeds.

Made with: torch 2.11.0, transformers 5.23.0, peft 0.21.2, safetensors 0.8.0.
"""

import argparse
import json
import os
import shutil
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

VOCAB = 97
# Longer than every window, shorter, and a document that has no next token at all.
LENGTHS = (23, 6, 1)

SHAPE = dict(
    vocab_size=VOCAB,
    hidden_size=32,
    intermediate_size=56,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
    attn_implementation="eager",
)


def output_folder():
    """The folder that `--out` names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "vectors")
    return parser.parse_args().out


def fresh(folder):
    """An empty `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def randomise(model, seed, std=0.2):
    """Draws every parameter anew; norm weights lie around what they start from."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator) * std
            parameter.copy_(noise + (parameter if "norm" in name else 0.0))
    return model.float().eval()


def documents(seed, lengths=LENGTHS, vocab=VOCAB):
    """Token ids, one tensor `[t]` a document; none is a special token."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, vocab, (length,), generator=generator) for length in lengths]


def logits(model, tokens):
    """`[t, vocab]` of one document run alone."""
    return model(tokens[None], use_cache=False).logits[0]


def summed_cross_entropy(model, docs):
    """Sum over documents and positions of the next token's negative log-probability, in nats."""
    total = torch.zeros(())
    for tokens in docs:
        total = total + F.cross_entropy(logits(model, tokens)[:-1], tokens[1:], reduction="sum")
    return total


def tiny_llama(seed=11, **changes):
    """The llama that adapters, trajectories and samples start from."""
    config = transformers.LlamaConfig(**{**SHAPE, "tie_word_embeddings": True, **changes})
    return randomise(transformers.LlamaForCausalLM(config), seed)


def save_adapter(model, folder):
    """An adapter as PEFT saves it, its sets sorted so that two runs give the same bytes."""
    model.save_pretrained(folder)
    (folder / "README.md").unlink()
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = None
    for key, value in config.items():
        if isinstance(value, list) and all(isinstance(one, str) for one in value):
            config[key] = sorted(value)
    path.write_text(json.dumps(config, indent=2, sort_keys=True))


def write_tensors(path, tensors, **metadata):
    """A safetensors file with sorted names and independent, contiguous tensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {name: tensors[name].detach().clone().contiguous() for name in sorted(tensors)}
    save_file(whole, path, metadata={key: str(value) for key, value in metadata.items()} or None)


def write_json(path, value):
    """JSON with sorted keys where order means nothing, one trailing newline."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
