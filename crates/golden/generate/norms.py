"""What Transformers' own norms give in bf16, rounding where they round.

norms/llama, norms/gemma   x [t, d], weight [d], y [t, d], all bf16: LlamaRMSNorm and GemmaRMSNorm,
                           eps 1e-5

Made with: torch 2.11.0, transformers 5.23.0.
"""

from tiny import fresh, output_folder, write_tensors

import torch
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm


def norm(seed, kind, mean):
    generator = torch.Generator().manual_seed(seed)
    module = kind(576, eps=1e-5)
    with torch.no_grad():
        module.weight.copy_(torch.randn(576, generator=generator) * 0.5 + mean)
    module = module.to(torch.bfloat16)
    x = (torch.randn(40, 576, generator=generator) * 1.5).to(torch.bfloat16)
    return {"x": x, "weight": module.weight, "y": module(x)}


def main():
    out = fresh(output_folder() / "norms")
    write_tensors(out / "llama.safetensors", norm(21, LlamaRMSNorm, 1.0))
    write_tensors(out / "gemma.safetensors", norm(22, GemmaRMSNorm, 0.0))


if __name__ == "__main__":
    main()
