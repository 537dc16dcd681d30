"""Ten optimiser steps of TRL's `DPOTrainer` and `KTOTrainer` on the base of `trajectory/lora`.

preference_steps/golden.safetensors
    `RUN.tokens.S.P`, `RUN.labels.S.P` i64 [t]: document P of step S, for `dpo` chosen and rejected in turn, for `kto` one
                 reply each; a label is the token itself where it is of the reply and -100 where not (not shifted)
    `initial.P`: each trainable parameter before the first step of every run
    `RUN.final.P`: after the last
steps.json       by run: `losses`, `grad_norms` and the metrics of every step by TRL's names, `desirable` (kto), options

The reference is the base with the adapter off. `sigmoid` is plain DPO; `mixed` is three weighted losses.

Made with: torch 2.11.0, transformers 5.23.0, peft 0.21.2, trl 1.16.0.
"""

import sys
import tempfile

import torch

# pandas asks for a package called `bottleneck`, and would find the generator of that name.
here = sys.path.pop(0)
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch.utils.data import SequentialSampler
from transformers import PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

sys.path.insert(0, here)
from tiny import VOCAB, documents, fresh, output_folder, tiny_llama, write_json, write_tensors

STEPS, SIZE, RATE = 10, 3, 1e-2
LORA = dict(r=4, lora_alpha=10, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
RUNS = {
    "dpo": dict(beta=0.2),
    "mixed": dict(beta=0.3, loss_type=["ipo", "apo_zero", "robust"], loss_weights=[0.5, 1.0, 0.7], label_smoothing=0.1),
    "kto": dict(beta=0.4, desirable_weight=1.2, undesirable_weight=0.9),
}


def tokenizer():
    words = Tokenizer(WordLevel({f"t{i}": i for i in range(VOCAB)}, unk_token="t0"))
    words.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="t2", pad_token="t0")


def text(ids):
    return " ".join(f"t{i}" for i in ids.tolist())


def rows(paired):
    found = []
    for row in range(STEPS * SIZE):
        prompt, chosen, rejected = documents(3000 + row, (3 + row % 4, 2 + row % 5, 3 + row % 3))
        # A space: the reply's first word is not the prompt's last.
        prompt = text(prompt) + " "
        if paired:
            found.append(dict(prompt=prompt, chosen=text(chosen), rejected=text(rejected)))
        else:
            found.append(dict(prompt=prompt, completion=text(chosen), label=row % 5 in (0, 3)))
    return found


def recorded(base, record):
    """The trainer `base`, in the data's own order, writing down every loss."""

    class Recorded(base):
        def _get_train_sampler(self, *_):
            return SequentialSampler(self.train_dataset)

        def _compute_loss(self, model, inputs, return_outputs):
            loss = super()._compute_loss(model, inputs, return_outputs)
            record["losses"].append(loss.item())
            for key, values in self._metrics["train"].items():
                if key.startswith(("rewards/", "logps/", "logits/")) or key == "kl":
                    record.setdefault(key, []).append(values[-1])
            return loss

        def log(self, logs, *_args, **_more):
            if "grad_norm" in logs:
                record["grad_norms"].append(float(logs["grad_norm"]))
            return super().log(logs, *_args, **_more)

    return Recorded


def run(name, options, tensors):
    paired = name != "kto"
    record = dict(losses=[], grad_norms=[])
    config, trainer = (DPOConfig, DPOTrainer) if paired else (KTOConfig, KTOTrainer)
    with tempfile.TemporaryDirectory() as folder:
        args = config(
            output_dir=folder,
            per_device_train_batch_size=SIZE,
            max_steps=STEPS,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            max_grad_norm=0.5,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            max_length=64,
            **options,
        )
        torch.manual_seed(5)
        trainer = recorded(trainer, record)(
            model=tiny_llama(seed=21),
            args=args,
            train_dataset=Dataset.from_list(rows(paired)),
            processing_class=tokenizer(),
            peft_config=LoraConfig(**LORA),
        )
        generator = torch.Generator().manual_seed(6)
        trained = {key.replace(".default", ""): p for key, p in trainer.model.named_parameters() if p.requires_grad}
        with torch.no_grad():
            for key, parameter in trained.items():
                if "lora_B" in key:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
        initial = {f"initial.{key}": value.detach().clone() for key, value in trained.items()}
        assert all(torch.equal(tensors.setdefault(key, value), value) for key, value in initial.items())
        data = trainer.train_dataset
        for row, example in enumerate(data):
            replies = [example["chosen_ids"], example["rejected_ids"]] if paired else [example["completion_ids"]]
            for part, reply in enumerate(replies):
                prompt = example["prompt_ids"]
                place = f"{row // SIZE}.{row % SIZE * len(replies) + part}"
                tensors[f"{name}.tokens.{place}"] = torch.tensor(prompt + reply)
                tensors[f"{name}.labels.{place}"] = torch.tensor([-100] * len(prompt) + reply)
        if not paired:
            record["desirable"] = [int(example["label"]) for example in data]
        trainer.train()
        tensors |= {f"{name}.final.{key}": value for key, value in trained.items()}
    print(name, record)
    return dict(record, options=options)


def main():
    out = fresh(output_folder() / "preference_steps")
    tensors = {}
    steps = {name: run(name, options, tensors) for name, options in RUNS.items()}
    write_tensors(out / "golden.safetensors", tensors)
    write_json(out / "steps.json", steps)


if __name__ == "__main__":
    main()
