"""The built command, as the checks call it, and how they say what they found."""

import json
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "generate"))

import torch
from safetensors.torch import load_file

# Relative to the largest logit: sums of f32 in another order.
OF_A_LOGIT = 1e-4


class Report:
    """Prints a line a check and counts the failures."""

    def __init__(self):
        self.done, self.failed = 0, 0

    def check(self, what, passed, found=""):
        self.done += 1
        self.failed += not passed
        print(f"{'ok    ' if passed else 'FAILED'}  {what}{': ' if found else ''}{found}", flush=True)

    def equal(self, what, ours, theirs):
        same = ours == theirs
        self.check(what, same, "" if same else f"ours {ours!r}, theirs {theirs!r}")

    def close(self, what, ours, theirs):
        """Lists of logits, `[t, v]` each."""
        shapes = [[tuple(one.shape) for one in side] for side in (ours, theirs)]
        if shapes[0] != shapes[1]:
            return self.check(what, False, f"shapes {shapes[0]} and {shapes[1]}")
        apart = distance(ours, theirs)
        self.check(what, apart <= OF_A_LOGIT, f"{len(ours)} texts, {apart:.1e} apart")

    def moved(self, what, ours, base):
        """That something was learnt: two things that are the same show nothing."""
        apart = distance(ours, base)
        self.check(what, apart > 100 * OF_A_LOGIT, f"moved by {apart:.1e}")


def distance(ours, theirs):
    """The largest difference over the largest logit."""
    apart = max((a.float() - b.float()).abs().max().item() for a, b in zip(ours, theirs, strict=True))
    return apart / max(b.abs().max().item() for b in theirs)


class Finetune:
    """The command, with a cache of its own and one thread."""

    def __init__(self, path, work):
        self.path, self.work = path, work
        self.texts = []

    def __call__(self, *arguments, stdin=""):
        environment = dict(os.environ, FINETUNE_CACHE=str(self.work / "cache"), OMP_NUM_THREADS="1")
        done = subprocess.run(
            [self.path, *map(str, arguments)], env=environment, input=stdin, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise SystemExit(f"finetune {' '.join(map(str, arguments))} failed:\n{done.stderr}")
        return done.stdout

    def write(self, name, text):
        path = self.work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def rows(self, name, rows):
        return self.write(name, "".join(json.dumps(row) + "\n" for row in rows))

    def train(self, name, base, surgery, rows, more="", objective="sft", model_options="", evaluated=None):
        """Six quick steps; the folder of the run."""
        out = self.work / "runs" / name
        evaluation = "" if evaluated is None else f"eval = [{{ path = {json.dumps(str(evaluated))} }}]"
        recipe = f"""
[model]
name_or_path = {json.dumps(str(base))}
dtype = "f32"
{model_options}

[[surgery]]
{surgery}

[objective]
kind = "{objective}"

[data]
train = [{{ path = {json.dumps(str(rows))} }}]
{evaluation}
max_length = 96

[report]
samples = 0

[train]
output_dir = {json.dumps(str(out))}
max_steps = 6
per_device_train_batch_size = 4
learning_rate = 2e-2
logging_steps = 1
seed = 5
{more}
"""
        self("train", self.write(f"recipes/{name}.toml", recipe))
        return out

    def logits(self, model, adapter=None):
        """What the model says of every token of every text."""
        data = self.rows("texts.jsonl", [{"text": text} for text in self.texts])
        out = self.work / "logits.safetensors"
        beside = () if adapter is None else ("--adapter", adapter)
        self("score", "--model", model, *beside, "--data", data, "--logits", out, "--dtype", "f32")
        found = load_file(out)
        return [found[str(row)] for row in range(len(self.texts))]


def reference_logits(model, tokenizer, texts):
    """The same by Transformers, each text alone."""
    with torch.no_grad():
        return [model(tokenizer(text, return_tensors="pt").input_ids, use_cache=False).logits[0] for text in texts]
