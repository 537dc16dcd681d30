"""What the built command writes, read by PEFT, Transformers and TensorBoard: a line a check, exit code 1 if one fails.

`cargo xtask golden --check` runs it. The models are the tiny ones of the golden vectors; the models named with
`--template-of` lend their chat templates only.
"""

import argparse
import json
from pathlib import Path

from command import Finetune, Report
from tiny import fresh

import adapters
import runs

SAYINGS = [
    ("Who comes first?", "The early bird catches the worm."),
    ("What is quick?", "The quick brown fox jumps over the lazy dog."),
    ("What glitters?", "All that glitters is not gold."),
    ("What is slow?", "Slow and steady wins the race."),
]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--finetune", type=Path, required=True)
    parser.add_argument("--vectors", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--template-of", type=Path, nargs="*", default=[])
    arguments = parser.parse_args()
    report, finetune = Report(), Finetune(arguments.finetune, fresh(arguments.work))
    base, gguf = arguments.vectors / "gguf/tiny", arguments.vectors / "gguf/tiny.gguf"
    texts = json.loads((arguments.vectors / "gguf/texts.json").read_text())
    finetune.texts = [row["text"] for row in texts if row["ids"]]
    rows = [dict(messages=runs.messages([("user", f"{ask} {n}"), ("assistant", answer)])) for n in range(6) for ask, answer in SAYINGS]
    chats = finetune.rows("chats.jsonl", rows)
    adapters.adapters(report, finetune, base, chats)
    adapters.combined(report, finetune, base, chats)
    adapters.quantised(report, finetune, base)
    adapters.over_packed(report, finetune, base, chats)
    adapters.classifier(report, finetune, base)
    adapters.whole_models(report, finetune, base, gguf, chats)
    adapters.pruned(report, finetune, base, chats)
    runs.records(report, finetune, base, chats)
    runs.tokenizers(report, finetune, base, texts, chats)
    for model in arguments.template_of:
        runs.templates(report, finetune, model)
    print(f"{report.done - report.failed} of {report.done} checks passed")
    raise SystemExit(report.failed > 0)


if __name__ == "__main__":
    main()
