"""TRL's SFTTrainer as its documentation shows it: defaults, but for the batch, the LoRA and where it writes.

Prints one JSON line an optimiser step, as `peft_step.py` does.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch
from datasets import load_dataset
from peft import LoraConfig
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer


class Steps(TrainerCallback):
    """Says when a step is over."""

    def __init__(self, tokens):
        """`tokens`: of a step."""
        self.tokens = tokens

    def on_step_end(self, args, state, control, **kwargs):
        print(json.dumps({"step": state.global_step, "tokens": self.tokens * state.global_step}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder that prepare.py wrote")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=512)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=options.batch,
            max_length=options.tokens,
            max_steps=options.steps,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = SFTTrainer(
            model=str(options.data / "model"),
            args=config,
            train_dataset=load_dataset("json", data_files=str(options.data / "rows.jsonl"), split="train", cache_dir=folder),
            peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
            callbacks=[Steps(options.batch * options.tokens)],
        )
        trainer.train()


if __name__ == "__main__":
    main()
