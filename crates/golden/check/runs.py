"""What else a run leaves: the trainer's state, event files, the tokenizer, the chat template."""

import json
import math

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoTokenizer
from transformers.trainer_callback import TrainerState

CHATS = [
    [("user", "Who comes first?"), ("assistant", "The early bird.")],
    [("system", "Be brief."), ("user", "What is  2+2? "), ("assistant", " 4\n")],
    [("user", "Naïve café?"), ("assistant", "你好 😀 <b>&</b>"), ("user", "And \"then\"?"), ("assistant", "It's over.")],
]
OWN = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{{ eos_token }}\n{% endfor %}"


def messages(chat):
    return [dict(role=role, content=content) for role, content in chat]


def records(report, finetune, base, chats):
    """`trainer_state.json` and the event files of a run with evaluations."""
    evaluation = "eval_strategy = 'steps'\neval_steps = 3\nload_best_model_at_end = true\nsave_steps = 3"
    run = finetune.train("records", base, "kind = 'lora'", chats, more=evaluation, evaluated=chats)
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["loss"] for line in metrics if "loss" in line}
    state = TrainerState.load_from_json(run / "trainer_state.json")
    report.equal("trainer_state.json: the steps", (state.global_step, state.max_steps), (6, 6))
    logged = {entry["step"]: entry["loss"] for entry in state.log_history if "loss" in entry}
    report.equal("trainer_state.json: the losses are those of metrics.jsonl", logged, losses)
    evaluated = [entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry]
    report.equal("trainer_state.json: the best evaluation", state.best_metric, min(evaluated))
    best = run / f"checkpoint-{state.best_global_step}"
    report.equal("trainer_state.json: the best checkpoint is there", (state.best_model_checkpoint, best.is_dir()), (str(best), True))
    inner = TrainerState.load_from_json(run / "checkpoint-3/trainer_state.json")
    report.equal("checkpoint-3/trainer_state.json: the step", inner.global_step, 3)
    events = EventAccumulator(str(run))
    events.Reload()
    found = {event.step: event.value for event in events.Scalars("train/loss")}
    same = found.keys() == losses.keys() and all(math.isclose(found[step], losses[step], rel_tol=1e-6) for step in losses)
    report.check("TensorBoard: the losses are those of metrics.jsonl", same, f"tags {', '.join(sorted(events.Tags()['scalars']))}")


def tokenizers(report, finetune, base, texts, chats):
    """The tokenizer and the template beside an adapter, as Transformers loads them."""
    own = finetune.write("own.jinja", OWN)
    for name, template in (("plain", None), ("chatml", "chatml"), ("own", str(own))):
        options = "" if template is None else f"chat_template = {json.dumps(template)}"
        run = finetune.train(f"template-{name}", base, "kind = 'lora'", chats, model_options=options)
        tokenizer = AutoTokenizer.from_pretrained(run)
        ids = [tokenizer(row["text"], add_special_tokens=False).input_ids for row in texts]
        report.equal(f"tokenizer, {name}: the same tokens", ids, [row["ids"] for row in texts])
        if template == str(own):
            report.equal(f"tokenizer, {name}: the template that was trained with", tokenizer.chat_template, OWN)
        theirs = [tokenizer.apply_chat_template(messages(chat), tokenize=False) for chat in CHATS]
        merged = finetune.work / "merged" / f"template-{name}"
        finetune("merge", "--model", base, "--adapter", run, "--output", merged)
        report.equal(f"tokenizer, {name}: merged, chats are rendered the same", rendered(finetune, merged), theirs)


def rendered(finetune, model):
    """Each of `CHATS` as our template engine writes it."""
    data = finetune.rows("chats-shown.jsonl", [dict(messages=messages(chat)) for chat in CHATS])
    shown = json.loads(finetune("inspect", data, "--model", model, "--rows", len(CHATS), "--json"))
    return ["".join(part["text"] for part in row["stretches"]) for row in shown["first_rows"]]


def templates(report, finetune, model):
    """The template in a GGUF file: by Transformers' own reading of the file, and by ours, to the byte."""
    tokenizer = AutoTokenizer.from_pretrained(model.parent, gguf_file=model.name)
    name = model.parent.name
    report.check(f"{name}: it has a chat template", bool(tokenizer.chat_template))
    theirs = [tokenizer.apply_chat_template(messages(chat), tokenize=False) for chat in CHATS]
    report.equal(f"{name}: chats are rendered the same, to the byte", rendered(finetune, model), theirs)
