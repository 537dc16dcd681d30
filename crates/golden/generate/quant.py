"""bitsandbytes: whole tensors in 4 and 8 bits, 4-bit checkpoints, and an optimiser with 8-bit states.

quant/tensors.safetensors
  KIND.weight       f32 [rows, columns]; rows of zeros, a block of zeros and midpoints of levels among the numbers
  KIND.weight_bf16  the same numbers, rounded
  KIND.BLOCK.SCHEME[.bf16].codes, .absmax, .dequantised                        one scale a block
  KIND.BLOCK.SCHEME[.bf16].nested.codes, .absmax, .offset, .dequantised        scales in 8 bits (`codes` u8)
  KIND.BLOCK.int8[.bf16].codes i8, .absmax, .dequantised                       rows of BLOCK numbers, absmax to 127
  quant_map.nf4, quant_map.fp4 f32 [16]; dynamic.signed, dynamic.unsigned f32 [256]
quant/FOLDER/       4-bit checkpoints of the tiny tied llama as Transformers saves them, with golden.safetensors:
                    tokens.N, logits.N f32 [t, vocab] and dense.N, the logits of the model before, which is llama-dense
quant/adamw.safetensors  bitsandbytes' AdamW with 8-bit states: parameter.N, gradient.N, and after each step the
                    states' codes and absmax

The native library is left out, so that the plain kernels run: the native one finds 8-bit codes from a table of
65536 cells and misses the nearest level now and then, which no GPU kernel does.

Made with: torch 2.11.0, transformers 5.23.0, bitsandbytes 0.50.2.
"""

import ctypes
import json
import logging

load_library = ctypes.cdll.LoadLibrary


def without_native(name):
    if "bitsandbytes" in str(name):
        raise OSError("left out")
    return load_library(name)


ctypes.cdll.LoadLibrary = without_native
logging.disable(logging.ERROR)

import bitsandbytes
import bitsandbytes.functional as bnb
import torch
import transformers

from tiny import documents, fresh, logits, output_folder, tiny_llama, write_tensors

SHAPES = {"even": (36, 96), "odd": (7, 13), "large": (129, 160)}
BLOCKS = (32, 64, 128)


def weight(seed, rows, columns):
    """Normal numbers with what is awkward: zeros, midpoints of levels, tiny and large rows."""
    generator = torch.Generator().manual_seed(seed)
    made = torch.randn((rows, columns), generator=generator) * 0.05
    made[1] = 0.0
    made[3] *= 1e-20
    made[4] *= 1e15
    flat = made.view(-1)
    levels = bnb.get_4bit_type("nf4", device="cpu")
    flat[5 : 5 + 15] = (levels[:-1] + levels[1:]) / 2
    flat[25] = 1.0
    return made


def four_bits(tensors, name, value, scheme, block):
    codes, state = bnb.quantize_4bit(value, blocksize=block, quant_type=scheme)
    tensors[f"{name}.codes"] = codes
    tensors[f"{name}.absmax"] = state.absmax
    tensors[f"{name}.dequantised"] = bnb.dequantize_4bit(codes, state)
    again, state = bnb.quantize_4bit(value, blocksize=block, quant_type=scheme, compress_statistics=True)
    assert torch.equal(codes, again)
    tensors[f"{name}.nested.codes"] = state.absmax
    tensors[f"{name}.nested.absmax"] = state.state2.absmax
    tensors[f"{name}.nested.offset"] = state.offset
    tensors[f"{name}.nested.dequantised"] = bnb.dequantize_4bit(codes, state)


def eight_bits(tensors, name, value, block):
    rows = value.reshape(-1, block)
    # Rows of zeros are left out: 127 / 0 is no number there.
    rows = rows[rows.abs().amax(1) > 0]
    codes, absmax, _ = bnb.int8_vectorwise_quant(rows.half() if value.dtype == torch.float16 else rows)
    tensors[f"{name}.rows"] = rows
    tensors[f"{name}.codes"] = codes
    tensors[f"{name}.absmax"] = absmax
    tensors[f"{name}.dequantised"] = bnb.int8_vectorwise_dequant(codes, absmax)


def whole_tensors():
    tensors = {
        "quant_map.nf4": bnb.get_4bit_type("nf4", device="cpu"),
        "quant_map.fp4": bnb.get_4bit_type("fp4", device="cpu"),
        "dynamic.signed": bnb.create_dynamic_map(True),
        "dynamic.unsigned": bnb.create_dynamic_map(False),
    }
    for seed, (kind, shape) in enumerate(SHAPES.items()):
        f32 = weight(seed, *shape)
        tensors[f"{kind}.weight"], tensors[f"{kind}.weight_bf16"] = f32, f32.bfloat16()
        for block in BLOCKS if kind == "even" else (64,):
            for scheme in ("nf4",) if kind == "large" else ("nf4", "fp4"):
                four_bits(tensors, f"{kind}.{block}.{scheme}", f32, scheme, block)
                four_bits(tensors, f"{kind}.{block}.{scheme}.bf16", f32.bfloat16(), scheme, block)
            if f32.numel() % block == 0:
                eight_bits(tensors, f"{kind}.{block}.int8", f32, block)
    return tensors


def checkpoint(out, name, scheme, nested, dtype):
    folder, plain = fresh(out / "quant" / name), out / "quant" / "llama-dense"
    dense = tiny_llama()
    dense.save_pretrained(plain)
    dense = dense.to(dtype)
    config = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=scheme,
        bnb_4bit_use_double_quant=nested,
        bnb_4bit_compute_dtype=dtype,
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(
        plain, quantization_config=config, dtype=dtype, device_map="cpu"
    )
    model.eval().save_pretrained(folder)
    again = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, device_map="cpu").eval()
    tensors = {}
    with torch.no_grad():
        for idx, tokens in enumerate(documents(5)):
            tensors[f"tokens.{idx}"] = tokens
            tensors[f"logits.{idx}"] = logits(model, tokens).float()
            tensors[f"dense.{idx}"] = logits(dense, tokens).float()
            torch.testing.assert_close(logits(again, tokens).float(), tensors[f"logits.{idx}"])
    write_tensors(folder / "golden.safetensors", tensors)


def adamw():
    """Two parameters, one of them too small for 8 bits, over six steps."""
    generator = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randn(shape, generator=generator)
    params = [torch.nn.Parameter(draw(65, 64) * 0.1), torch.nn.Parameter(draw(40, 100) * 0.1)]
    options = dict(lr=3e-2, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.1)
    optimiser = bitsandbytes.optim.AdamW8bit(params, **options)
    tensors = {f"parameter.{i}.0": value.detach().clone() for i, value in enumerate(params)}
    for step in range(1, 7):
        for i, value in enumerate(params):
            # Some gradients are zero, and their sizes lie decades apart.
            value.grad = draw(*value.shape) * 10.0 ** (draw(*value.shape[:1], 1) - 1) * (draw(*value.shape) > -1)
            tensors[f"gradient.{i}.{step}"] = value.grad.clone()
        optimiser.step()
        for i, value in enumerate(params):
            tensors[f"parameter.{i}.{step}"] = value.detach().clone()
            for key, state in optimiser.state[value].items():
                if key in ("state1", "state2", "absmax1", "absmax2"):
                    tensors[f"{key}.{i}.{step}"] = state.clone()
    tensors |= {name: torch.tensor(value, dtype=torch.float64) for name, value in options.items() if name != "betas"}
    tensors |= {"beta1": torch.tensor(0.9, dtype=torch.float64), "beta2": torch.tensor(0.98, dtype=torch.float64)}
    return {name: value.detach().clone() for name, value in tensors.items()}


def main():
    out = output_folder()
    fresh(out / "quant")
    write_tensors(out / "quant" / "tensors.safetensors", whole_tensors())
    checkpoint(out, "llama-nf4", "nf4", False, torch.float32)
    checkpoint(out, "llama-nf4-nested", "nf4", True, torch.float32)
    checkpoint(out, "llama-fp4-bf16", "fp4", True, torch.bfloat16)
    write_tensors(out / "quant" / "adamw.safetensors", adamw())


if __name__ == "__main__":
    main()
