"""Logits and gradients of every supported family on tiny random models.

families/NAME/
  config.json        as Transformers 5 writes it (`rope_parameters`, `dtype`)
  config.v4.json     the same meaning as Transformers 4 wrote it (`rope_theta`, `rope_scaling`,
                     `torch_dtype`); checked here to give the same logits bit for bit
  model.safetensors  or shards with an index
  golden.safetensors `tokens.N` i64 [t], `logits.N` f32 [t, vocab] (classifiers: [labels]) for the
                     documents N = 0, 1, 2, each run alone; `loss` f32 [], the summed next-token
                     cross-entropy over all documents, and `grad.PARAMETER`, its gradient

Made with: torch 2.11.0, transformers 5.23.0.
"""

import json

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers import Gemma3ForCausalLM, Gemma3TextConfig
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification
from transformers import MistralConfig, MistralForCausalLM
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from tiny import SHAPE, documents, fresh, logits, output_folder, randomise
from tiny import summed_cross_entropy, write_json, write_tensors

YARN = dict(rope_type="yarn", rope_theta=500.0, factor=4.0, original_max_position_embeddings=32)
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=10000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
)


def rope(rope_theta=10000.0, rope_type="default", **more):
    return dict(rope_type=rope_type, rope_theta=rope_theta, **more)


def llama(**changes):
    return LlamaForCausalLM(LlamaConfig(**{**SHAPE, "tie_word_embeddings": False, **changes}))


def mistral(**changes):
    return MistralForCausalLM(MistralConfig(**{**SHAPE, "sliding_window": 4, "rms_norm_eps": 1e-3, **changes}))


def qwen2(**changes):
    return Qwen2ForCausalLM(Qwen2Config(**{**SHAPE, "num_hidden_layers": 3, **changes}))


def qwen3(**changes):
    return Qwen3ForCausalLM(Qwen3Config(**{**SHAPE, "head_dim": 12, "rms_norm_eps": 4e-3, **changes}))


def gemma3(full_attention=None, **changes):
    ropes = dict(sliding_attention=rope(), full_attention=full_attention or rope(1000000.0))
    base = dict(
        num_hidden_layers=3,
        head_dim=12,
        query_pre_attn_scalar=20,
        rms_norm_eps=0.02,
        sliding_window=4,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        rope_parameters=ropes,
        tie_word_embeddings=True,
    )
    return Gemma3ForCausalLM(Gemma3TextConfig(**{**SHAPE, **base, **changes}))


def classifier(num_labels):
    config = LlamaConfig(**SHAPE, num_labels=num_labels, tie_word_embeddings=False)
    return LlamaForSequenceClassification(config)


# Name, model, whether gradients are stored.
FAMILIES = [
    ("llama-tied", lambda: llama(tie_word_embeddings=True), True),
    ("llama-untied", lambda: llama(head_dim=12, rms_norm_eps=1e-3), True),
    ("llama-biases", lambda: llama(attention_bias=True, mlp_bias=True), True),
    ("llama-rope-linear", lambda: llama(rope_parameters=rope(500.0, "linear", factor=2.5)), False),
    ("llama-rope-llama3", lambda: llama(rope_parameters=LLAMA3), False),
    ("llama-rope-yarn", lambda: llama(rope_parameters=YARN), False),
    ("llama-rope-yarn-attention-factor", lambda: llama(rope_parameters={**YARN, "attention_factor": 1.3}), False),
    ("llama-rope-yarn-mscale", lambda: llama(rope_parameters={**YARN, "mscale": 0.7, "mscale_all_dim": 0.4}), False),
    ("llama-rope-yarn-betas", lambda: llama(head_dim=12, rope_parameters={**YARN, "beta_fast": 4.0, "beta_slow": 0.5, "truncate": False}), False),
    ("llama-sharded", lambda: llama(num_hidden_layers=3), False),
    ("mistral-window", lambda: mistral(head_dim=12), True),
    ("mistral-no-window", lambda: mistral(sliding_window=None), False),
    ("qwen2-tied", lambda: qwen2(tie_word_embeddings=True), True),
    ("qwen2-window", lambda: qwen2(use_sliding_window=True, sliding_window=4, max_window_layers=1), False),
    ("qwen3-tied", lambda: qwen3(tie_word_embeddings=True), True),
    ("qwen3-untied-yarn", lambda: qwen3(rope_parameters=YARN), False),
    ("gemma3", gemma3, True),
    ("gemma3-rope-linear", lambda: gemma3(rope(100.0, "linear", factor=8.0), query_pre_attn_scalar=12), False),
    ("llama-classifier-3", lambda: classifier(3), True),
    ("llama-scalar", lambda: classifier(1), True),
]


def v4(config):
    """`config.json` in the words of Transformers 4."""
    old = {key: value for key, value in config.items() if key not in ("rope_parameters", "dtype")}
    old["torch_dtype"] = config["dtype"]
    old["transformers_version"] = "4.46.0"
    ropes = config["rope_parameters"]
    if config["model_type"] == "gemma3_text":
        full, local = dict(ropes["full_attention"]), ropes["sliding_attention"]
        old["rope_local_base_freq"] = local["rope_theta"]
        old["sliding_window_pattern"] = 3
        del old["layer_types"], old["_sliding_window_pattern"]
    else:
        full = dict(ropes)
    old["rope_theta"] = full.pop("rope_theta")
    old["rope_scaling"] = None if full["rope_type"] == "default" else full
    if config["model_type"] == "qwen2":
        old.pop("layer_types")
        old["sliding_window"] = config["sliding_window"] or 4096
    if config["model_type"] == "llama" and "linear" in str(ropes):
        # The oldest spelling.
        old["rope_scaling"] = dict(type="linear", factor=full["factor"])
    if config["model_type"] == "llama" and config["head_dim"] * config["num_attention_heads"] == config["hidden_size"]:
        del old["head_dim"]
    return old


def reload(folder):
    """The model as Transformers reads `folder`."""
    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    auto = AutoModelForSequenceClassification if "Classification" in architecture else AutoModelForCausalLM
    return auto.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def both_dialects_agree(folder, expected, docs):
    """Writes `config.v4.json` and runs the model through it."""
    new = (folder / "config.json").read_text()
    old = v4(json.loads(new))
    write_json(folder / "config.v4.json", old)
    for text in (new, json.dumps(old)):
        (folder / "config.json").write_text(text)
        model = reload(folder)
        for tokens, wanted in zip(docs, expected, strict=True):
            assert torch.equal(logits(model, tokens), wanted), folder
    (folder / "config.json").write_text(new)


def classifier_loss(model, docs):
    """Cross-entropy against label N mod 3 (three labels), or squared error against N (one)."""
    total = torch.zeros(())
    for index, tokens in enumerate(docs):
        out = logits(model, tokens)
        if out.numel() == 1:
            total = total + (out[0] - index) ** 2
        else:
            total = total + F.cross_entropy(out, torch.tensor(index % 3))
    return total


def options(config):
    """The paths of all numeric options that must show in the logits."""
    ropes = config["rope_parameters"]
    nested = "full_attention" in ropes
    paths = [("rope_parameters", a, b) for a in ropes for b in ropes[a]] if nested else [("rope_parameters", a) for a in ropes]
    paths += [("sliding_window",), ("query_pre_attn_scalar",)]
    # A smaller epsilon moves the logits by less than they are compared to.
    paths += [("rms_norm_eps",)] if config["rms_norm_eps"] >= 1e-3 else []
    # Yarn's rounding of its corrections hides the length they are made from.
    hidden = "original_max_position_embeddings" if ropes.get("rope_type") == "yarn" and ropes.get("truncate", True) else None
    return [path for path in paths if path[-1] != hidden]


def sensitive(folder, model, expected, docs):
    """Fails when a parameter or an option of the family does not show in the logits."""

    def moved(other):
        return max((logits(other, tokens) - wanted).abs().max() for tokens, wanted in zip(docs, expected, strict=True))

    config = json.loads((folder / "config.json").read_text())
    for path in options(config):
        changed = json.loads(json.dumps(config))
        place = changed
        for part in path[:-1]:
            place = place[part]
        if isinstance(place.get(path[-1]), (int, float)) and not isinstance(place[path[-1]], bool):
            place[path[-1]] *= 3
            other = type(model)(type(model.config).from_dict(changed)).eval()
            other.load_state_dict(model.state_dict())
            assert moved(other) > 1e-3, (folder, path, moved(other))
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            kept = parameter.clone()
            parameter.mul_(1.05).add_(0.01)
            assert moved(model) > 5e-4, (folder, name, moved(model))
            parameter.copy_(kept)


def main():
    out = output_folder() / "families"
    fresh(out)
    for seed, (name, make, with_gradients) in enumerate(FAMILIES):
        folder = fresh(out / name)
        model = randomise(make(), 100 + seed)
        model.save_pretrained(folder, max_shard_size="30KB" if name == "llama-sharded" else "5GB")
        (folder / "generation_config.json").unlink(missing_ok=True)
        docs = documents(200 + seed)
        with torch.no_grad():
            expected = [logits(model, tokens) for tokens in docs]
        sensitive(folder, model, expected, docs)
        both_dialects_agree(folder, expected, docs)
        golden = {f"tokens.{n}": tokens for n, tokens in enumerate(docs)}
        golden |= {f"logits.{n}": value for n, value in enumerate(expected)}
        if with_gradients:
            loss = (classifier_loss if "score.weight" in model.state_dict() else summed_cross_entropy)(model, docs)
            loss.backward()
            golden["loss"] = loss
            golden |= {f"grad.{key}": value.grad for key, value in model.named_parameters()}
        write_tensors(folder / "golden.safetensors", golden)
        print(name, max(value.abs().max().item() for value in expected))


if __name__ == "__main__":
    main()
