"""Adapters combined by PEFT's `add_weighted_adapter`, every type of it; and each adapter alone.

combine/NAME/            four adapters over adapters/base: `first`, `second`, `third`, `fourth`
combine/golden.safetensors
  CASE.A.MODULE, CASE.B.MODULE    the new adapter's factors, which PEFT means to be scaled by 1
  CASE.mask.MODULE.N              u8: what DARE keeps, in the order of drawing (for factors: every A, then every B)
  tokens.N i64 [t]; logits.base.N, logits.NAME.N, logits.CASE.N f32 [t, vocab]
  clamp.A.MODULE, clamp.B.MODULE  `svd-clamp` before it is clamped
combine/cases.json
  each case's adapters, weights and options, under PEFT's names

Factors of `svd` forms have no sign of their own: compare `B A`. Ranks of `cat` are padded with zeros to one sum.
Made with: torch 2.11.0, transformers 5.23.0, peft 0.21.2.
"""

import warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer

from tiny import documents, fresh, logits, output_folder, save_adapter, tiny_llama, write_json, write_tensors

warnings.simplefilter("ignore")

ADAPTERS = {
    "first": dict(r=4, lora_alpha=10, target_modules=["q_proj", "v_proj", "down_proj", "embed_tokens"]),
    "second": dict(
        r=4,
        lora_alpha=3,
        use_rslora=True,
        target_modules=["q_proj", "down_proj", "o_proj", "embed_tokens"],
        alpha_pattern={"down_proj": 5},
    ),
    "third": dict(r=4, lora_alpha=6, target_modules=["q_proj", "v_proj", "o_proj"]),
    "fourth": dict(
        r=3,
        lora_alpha=7,
        use_rslora=True,
        target_modules=["q_proj", "v_proj", "up_proj"],
        rank_pattern={"v_proj": 5},
        alpha_pattern={"layers.1.self_attn.v_proj": 2},
    ),
}

EQUAL = dict(adapters=["first", "second", "third"], weights=[0.7, -0.4, 0.5])
MIXED = dict(adapters=["first", "second", "fourth"], weights=[0.7, -0.4, 0.5])
FREQUENCY = dict(majority_sign_method="frequency")
CASES = {
    "cat": dict(MIXED, combination_type="cat"),
    "svd": dict(MIXED, combination_type="svd"),
    "svd-2": dict(MIXED, combination_type="svd", svd_rank=2),
    "svd-clamp": dict(MIXED, combination_type="svd", svd_rank=3, svd_clamp=0.9),
    "linear": dict(EQUAL, combination_type="linear"),
    "ties": dict(EQUAL, combination_type="ties", density=0.6),
    "ties-frequency": dict(EQUAL, combination_type="ties", density=0.55, **FREQUENCY),
    "dare_linear": dict(EQUAL, combination_type="dare_linear", density=0.7),
    "dare_ties": dict(EQUAL, combination_type="dare_ties", density=0.7),
    "magnitude_prune": dict(EQUAL, combination_type="magnitude_prune", density=0.35),
    "ties_svd": dict(MIXED, combination_type="ties_svd", density=0.6, svd_rank=3),
    "ties_svd-frequency": dict(MIXED, combination_type="ties_svd", density=0.55, **FREQUENCY),
    "dare_linear_svd": dict(MIXED, combination_type="dare_linear_svd", density=0.7, svd_rank=4),
    "dare_ties_svd": dict(MIXED, combination_type="dare_ties_svd", density=0.7, svd_rank=4),
    "magnitude_prune_svd": dict(MIXED, combination_type="magnitude_prune_svd", density=0.35, svd_rank=4),
    "single": dict(adapters=["fourth"], weights=[1.0], combination_type="ties", density=0.5),
}
WITH_LOGITS = ["cat", "svd-2", "linear"]


def base():
    return tiny_llama(seed=31, tie_word_embeddings=False)


def adapter(out, seed, name, options):
    torch.manual_seed(seed)
    model = get_peft_model(base(), LoraConfig(task_type="CAUSAL_LM", **options)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    save_adapter(model, fresh(out / "combine" / name))


def loaded(out):
    model = None
    for name in ADAPTERS:
        folder = out / "combine" / name
        if model is None:
            model = PeftModel.from_pretrained(base(), folder, adapter_name=name)
        else:
            model.load_adapter(folder, adapter_name=name)
    return model.eval()


def combine(model, name, options):
    """Runs one case; returns what DARE kept, by module."""
    tuner, masks, current = model.base_model, {}, []
    modules = {id(module): key.removeprefix("model.") for key, module in tuner.named_modules()}
    draw = torch.bernoulli

    def drawn(probabilities):
        mask = draw(probabilities)
        masks.setdefault(current[-1], []).append(mask.to(torch.uint8))
        return mask

    def noting(method, place):
        def wrapped(*args, **kwargs):
            current.append(modules[id(args[place])])
            return method(*args, **kwargs)

        return wrapped

    dense, factors = tuner._svd_generalized_task_arithmetic_weighted_adapter, tuner._generalized_task_arithmetic_weighted_adapter
    tuner._svd_generalized_task_arithmetic_weighted_adapter = noting(dense, 4)
    tuner._generalized_task_arithmetic_weighted_adapter = noting(factors, 3)
    torch.bernoulli = drawn
    torch.manual_seed(7)
    try:
        model.add_weighted_adapter(adapter_name=name, **options)
    finally:
        torch.bernoulli = draw
        del tuner._svd_generalized_task_arithmetic_weighted_adapter
        del tuner._generalized_task_arithmetic_weighted_adapter
    return masks


def factors_of(model, name):
    for key, module in model.base_model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        if name in module.lora_A:
            yield key.removeprefix("model."), module.lora_A[name].weight, module.lora_B[name].weight
        elif name in module.lora_embedding_A:
            yield key.removeprefix("model."), module.lora_embedding_A[name], module.lora_embedding_B[name]


def main():
    out = output_folder()
    fresh(out / "combine")
    for seed, (name, options) in enumerate(ADAPTERS.items()):
        adapter(out, 70 + seed, name, options)
    model = loaded(out)
    docs = documents(370)
    golden = {f"tokens.{n}": tokens for n, tokens in enumerate(docs)}
    for name, options in CASES.items():
        # PEFT takes a dot in an adapter's name for a submodule.
        for module, masks in combine(model, name, options).items():
            golden |= {f"{name}.mask.{module}.{n}": mask for n, mask in enumerate(masks)}
        for module, a, b in factors_of(model, name):
            golden |= {f"{name}.A.{module}": a, f"{name}.B.{module}": b}
        print(name, sum(key.startswith(f"{name}.A.") for key in golden), "modules")
    combine(model, "clamp", {key: value for key, value in CASES["svd-clamp"].items() if key != "svd_clamp"})
    for module, a, b in factors_of(model, "clamp"):
        golden |= {f"clamp.A.{module}": a, f"clamp.B.{module}": b}
    with torch.no_grad():
        golden |= {f"logits.base.{n}": logits(base(), tokens) for n, tokens in enumerate(docs)}
        for name in [*ADAPTERS, *WITH_LOGITS]:
            model.set_adapter(name)
            golden |= {f"logits.{name}.{n}": logits(model, tokens) for n, tokens in enumerate(docs)}
            moved = (golden[f"logits.{name}.0"] - golden["logits.base.0"]).abs().max().item()
            assert moved > 0.05, (name, moved)
    write_tensors(out / "combine/golden.safetensors", golden)
    write_json(out / "combine/cases.json", CASES)


if __name__ == "__main__":
    main()
