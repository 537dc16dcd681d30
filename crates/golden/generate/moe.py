"""Mixture-of-experts models and their balance losses, by Transformers, on tiny random models.

moe/NAME/            mixtral, qwen2-moe (shared experts, one dense layer), qwen3-moe
  config.json, config.v4.json, model.safetensors   as Transformers writes them: a matrix an expert
  golden.safetensors `tokens.N` i64 [t], `logits.N` f32 [t, vocab] for the documents N = 0, 1, 2, each
                     run alone; `loss` f32 [], the summed next-token cross-entropy over all of them, and
                     `grad.PARAMETER`; `balanced.grad.PARAMETER`, the routers' gradient of
                     loss + 7 · mean over sparse layers of the balance loss of all 30 tokens together
                     (qwen3-moe: logits alone)
moe/balance.safetensors
  logits [3, 40, 5] f64: routers' outputs of three layers; aux.N and d_aux.N: the loss of layer N alone
  and its gradient; aux: of all layers' tokens together; top-2

Made with: torch 2.11.0, transformers 5.23.0.
"""

import json

import torch
from safetensors.torch import load_file
from transformers import MixtralConfig, MixtralForCausalLM
from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from tiny import SHAPE, documents, fresh, logits, output_folder, randomise
from tiny import summed_cross_entropy, write_json, write_tensors

VOCAB = 53
TINY = {**SHAPE, "hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": VOCAB}
EAGER = dict(attn_implementation="eager", experts_implementation="eager")
ROUTED = dict(num_experts_per_tok=2, **EAGER)


def mixtral():
    config = dict(num_local_experts=5, intermediate_size=13, sliding_window=None, rms_norm_eps=1e-3)
    return MixtralForCausalLM(MixtralConfig(**{**TINY, **ROUTED, **config, "tie_word_embeddings": True}))


def qwen2_moe():
    config = dict(
        num_hidden_layers=3,
        num_experts=4,
        moe_intermediate_size=9,
        shared_expert_intermediate_size=11,
        intermediate_size=13,
        mlp_only_layers=[1],
        norm_topk_prob=False,
    )
    return Qwen2MoeForCausalLM(Qwen2MoeConfig(**{**TINY, **ROUTED, **config}))


def qwen3_moe():
    config = dict(num_experts=5, moe_intermediate_size=9, intermediate_size=13, head_dim=8, norm_topk_prob=True)
    config |= dict(num_experts_per_tok=3, decoder_sparse_step=2)
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**{**TINY, **ROUTED, **config}))


MODELS = [("mixtral", mixtral, True), ("qwen2-moe", qwen2_moe, True), ("qwen3-moe", qwen3_moe, False)]


def sparse(model):
    """Each layer with experts."""
    return [layer.mlp for layer in model.model.layers if hasattr(layer.mlp, "experts")]


def listening(model, docs):
    """The routers' outputs `[t, experts]` of each sparse layer over all documents, with their graph."""
    heard = [[] for _ in sparse(model)]
    hooks = [
        block.gate.register_forward_hook(lambda _m, _i, out, into=into: into.append(out[0]))
        for block, into in zip(sparse(model), heard, strict=True)
    ]
    loss = summed_cross_entropy(model, docs)
    for hook in hooks:
        hook.remove()
    return loss, [torch.cat(parts) for parts in heard]


def is_clear(scores, k):
    """Whether every choice is by more than rounding, and every expert is chosen."""
    for layer in scores:
        top = layer.softmax(-1).sort(-1, descending=True).values
        if (top[:, k - 1] - top[:, k]).min() < 1e-3:
            return False
        if layer.topk(k, -1).indices.flatten().unique().numel() < layer.shape[-1]:
            return False
    return True


def clear_documents(model, seed, k):
    """The first documents whose routing is clear."""
    for attempt in range(1000):
        docs = documents(seed + attempt, vocab=VOCAB)
        if is_clear(listening(model, docs)[1], k):
            return docs
    raise AssertionError("no documents are routed clearly")


def per_expert(gradients, names):
    """Gradients under the names of the checkpoint, whose matrices are one an expert."""
    split = {}
    for key, value in gradients.items():
        if key.endswith("mlp.experts.gate_up_proj") or key.endswith("mlp.experts.down_proj"):
            at = key.rsplit(".", 1)[0]
            is_down = key.endswith("down_proj")
            for index, expert in enumerate(value):
                parts = {"down": expert} if is_down else dict(zip(("gate", "up"), expert.chunk(2)))
                for part, matrix in parts.items():
                    qwen = f"{at}.{index}.{part}_proj.weight"
                    old = dict(gate="w1", down="w2", up="w3")[part]
                    mixtral = f"{at.replace('.mlp.', '.block_sparse_moe.')}.{index}.{old}.weight"
                    split[qwen if qwen in names else mixtral] = matrix
        elif key in names:
            split[key] = value
        else:
            split[key.replace(".mlp.gate.", ".block_sparse_moe.gate.")] = value
    assert set(split) == names, set(split) ^ names
    return split


def v4(config):
    """`config.json` in the words of Transformers 4."""
    old = {key: value for key, value in config.items() if key not in ("rope_parameters", "dtype", "layer_types")}
    old["torch_dtype"] = config["dtype"]
    old["transformers_version"] = "4.46.0"
    old["rope_theta"], old["rope_scaling"] = config["rope_parameters"]["rope_theta"], None
    return old


def whole_model(folder, seed, make, with_gradients):
    model = randomise(make(), 700 + seed)
    k = model.config.num_experts_per_tok
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    config = json.loads((folder / "config.json").read_text())
    docs = clear_documents(model, 10000 * (1 + seed), k)
    with torch.no_grad():
        expected = [logits(model, tokens) for tokens in docs]
    write_json(folder / "config.v4.json", v4(config))
    for name in ("config.json", "config.v4.json"):
        read = {**json.loads((folder / name).read_text()), **EAGER}
        again = type(model)(type(model.config).from_dict(read)).eval()
        again.load_state_dict(model.state_dict())
        for tokens, wanted in zip(docs, expected, strict=True):
            assert torch.equal(logits(again, tokens), wanted), (folder, name)
    golden = {f"tokens.{n}": tokens for n, tokens in enumerate(docs)}
    golden |= {f"logits.{n}": value for n, value in enumerate(expected)}
    loss, scores = listening(model, docs)
    if with_gradients:
        names = set(load_file(folder / "model.safetensors"))
        parameters = dict(model.named_parameters())
        golden["loss"] = loss
        plain = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True)
        plain = per_expert(dict(zip(parameters, plain, strict=True)), names)
        golden |= {f"grad.{key}": value for key, value in plain.items()}
        balances = [load_balancing_loss_func((layer,), layer.shape[-1], k) for layer in scores]
        balanced = loss + 7 * torch.stack(balances).mean()
        balanced = torch.autograd.grad(balanced, list(parameters.values()))
        balanced = per_expert(dict(zip(parameters, balanced, strict=True)), names)
        golden["balance"] = torch.stack(balances).mean()
        golden |= {f"balanced.grad.{key}": value for key, value in balanced.items() if key.endswith("gate.weight")}
    write_tensors(folder / "golden.safetensors", golden)
    print(folder.name, max(value.abs().max().item() for value in expected))


def balance(path):
    generator = torch.Generator().manual_seed(71)
    scores = torch.randn(3, 40, 5, generator=generator, dtype=torch.float64) * 1.5
    scores[1] += torch.tensor([1.5, 0, 0, -0.5, 0.3])
    golden = {"logits": scores, "aux": load_balancing_loss_func(tuple(scores), 5, 2)}
    for index, layer in enumerate(scores):
        leaf = layer.clone().requires_grad_()
        loss = load_balancing_loss_func((leaf,), 5, 2)
        golden[f"aux.{index}"] = loss
        golden[f"d_aux.{index}"] = torch.autograd.grad(loss, leaf)[0]
    write_tensors(path, golden)


def main():
    out = fresh(output_folder() / "moe")
    for seed, (name, make, with_gradients) in enumerate(MODELS):
        whole_model(fresh(out / name), seed, make, with_gradients)
    balance(out / "balance.safetensors")


if __name__ == "__main__":
    main()
