"""What Transformers makes of a tokenizer's files: tokens that stand beside `tokenizer.json`, what is put around a text,
and which chat template counts.

The `tokenizer.json` is that of the tests of `crates/data`, with the post-processor that a case gives it.

token_files.json  `cases`: `name`, `post` (what stands around a text, or null), `files` (name to text); `size` (tokens in
                  all), `bos` and `eos` (ids or null), `texts` (a text with its `ids`), `template` (the plain one, or
                  null), `chat` (the ids of a conversation of one user's turn, with a generation prompt, or null)

Made with: transformers 5.23.0, tokenizers 0.23.3.
"""

import argparse
import json
import tempfile
from pathlib import Path

from tokenizers import Tokenizer, processors
from transformers import AutoTokenizer

TOKENIZER = Path(__file__).parent.parent.parent / "data/tests/vectors/tokenizer.json"
TEXTS = ["hi <tool> there", "a<x> <y>b", "plain"]
PLAIN = "{% for m in messages %}{{ m.content + '<|im_end|>' }}{% endfor %}"
WITH_BOS = "{{ bos_token }}" + PLAIN
OTHER = "other" + PLAIN
NAMES = dict(bos_token="<|endoftext|>", eos_token="<|im_end|>")
BOTH = "<|endoftext|> $A <|im_end|>"


def token(content, special=True):
    return dict(content=content, special=special, lstrip=False, rstrip=False, normalized=not special, single_word=False)


def cases(size):
    """`size`: tokens in tokenizer.json."""
    yield "nothing beside it", None, {}, {}
    for add in (True, False):
        yield f"add_bos_token {add}, no post-processor", None, dict(NAMES, add_bos_token=add, add_eos_token=add), {}
        yield f"add_bos_token {add}, a post-processor", BOTH, dict(NAMES, add_bos_token=add, add_eos_token=add), {}
    yield "begin of text in the post-processor and in the template", "<|endoftext|> $A", dict(NAMES, chat_template=WITH_BOS), {}
    yield "begin of text in the post-processor only", "<|endoftext|> $A", dict(NAMES, chat_template=PLAIN), {}
    decoder = {str(size): token("<tool>"), str(size + 1): token("<x>", special=False)}
    yield "added_tokens_decoder", None, dict(NAMES, added_tokens_decoder=decoder), {}
    yield "added_tokens_decoder with other numbers", None, dict(NAMES, added_tokens_decoder={str(size + 7): token("<tool>")}), {}
    yield "added_tokens_decoder hides the older files", None, dict(NAMES, added_tokens_decoder={str(size): token("<x>")}), {
        "added_tokens.json": json.dumps({"<tool>": size}),
        "special_tokens_map.json": json.dumps(dict(eos_token="<|im_start|>")),
    }
    yield "added_tokens.json", None, NAMES, {"added_tokens.json": json.dumps({"<y>": size + 2, "<tool>": size + 1, "<x>": size})}
    yield "special_tokens_map.json wins", None, NAMES, {
        "special_tokens_map.json": json.dumps(dict(bos_token="<|im_start|>", eos_token=token("<|endoftext|>")))
    }
    yield "extra_special_tokens as a list", None, dict(NAMES, extra_special_tokens=["<tool>", "<|im_start|>"]), {}
    yield "extra_special_tokens by name", None, dict(NAMES, extra_special_tokens=dict(x_token="<x>")), {}
    yield "additional_special_tokens", None, dict(NAMES, additional_special_tokens=["<tool>", "<x>"]), {}
    yield "extra hides additional", None, dict(NAMES, additional_special_tokens=["<x>"], extra_special_tokens=["<tool>"]), {}
    yield "a token of the model's own", None, dict(NAMES, image_token="<tool>"), {}
    yield "additional ones in the map", None, NAMES, {
        "special_tokens_map.json": json.dumps(dict(additional_special_tokens=["<tool>", "<y>"]))
    }
    yield "an added and a special one", None, NAMES, {
        "added_tokens.json": json.dumps({"<tool>": size}),
        "special_tokens_map.json": json.dumps(dict(additional_special_tokens=["<tool>", "<y>"])),
    }
    yield "a padding token that is nowhere", None, dict(NAMES, pad_token="<x>"), {}
    yield "a template file", None, dict(NAMES, chat_template=OTHER), {"chat_template.jinja": PLAIN}
    named = [dict(name="tool_use", template=OTHER), dict(name="default", template=PLAIN)]
    yield "named templates", None, dict(NAMES, chat_template=named), {}
    yield "templates in an object", None, dict(NAMES, chat_template={"default": PLAIN, "tool_use": OTHER}), {}
    yield "an older template file beside it", None, dict(NAMES, chat_template=PLAIN), {
        "chat_template.json": json.dumps(dict(chat_template=OTHER))
    }


def plain(tokenizer):
    template = tokenizer.chat_template
    return template.get("default") if isinstance(template, dict) else template


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "vectors")
    options = parser.parse_args()
    rows = []
    base = Tokenizer.from_file(str(TOKENIZER))
    for name, post, config, files in cases(base.get_vocab_size()):
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            inner = Tokenizer.from_file(str(TOKENIZER))
            if post:
                around = [(part, inner.token_to_id(part)) for part in post.split() if part != "$A"]
                inner.post_processor = processors.TemplateProcessing(single=post, special_tokens=around)
            inner.save(str(folder / "tokenizer.json"))
            config = dict(config, tokenizer_class="TokenizersBackend")
            files = dict(files, **{"tokenizer_config.json": json.dumps(config)})
            for file, text in files.items():
                (folder / file).write_text(text)
            tokenizer = AutoTokenizer.from_pretrained(folder)
            template = plain(tokenizer)
            chat = None
            if template:
                messages = [dict(role="user", content="hi")]
                chat = tokenizer.apply_chat_template(messages, chat_template=template, add_generation_prompt=True)["input_ids"]
            rows.append(
                dict(
                    name=name,
                    post=post,
                    files=files,
                    size=len(tokenizer),
                    bos=tokenizer.bos_token_id,
                    eos=tokenizer.eos_token_id,
                    texts=[dict(text=text, ids=tokenizer(text)["input_ids"]) for text in TEXTS],
                    template=template,
                    chat=chat,
                )
            )
    lines = ",\n".join(json.dumps(row, sort_keys=True) for row in rows)
    (options.out / "token_files.json").write_text('{"cases": [\n' + lines + "\n]}\n")


if __name__ == "__main__":
    main()
