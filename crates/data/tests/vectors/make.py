"""Makes templates.json, masks.json, tokenizer.json and two Parquet files beside this file: what Transformers renders, to the byte.

Run with transformers 5.23, trl 1.16, tokenizers and pyarrow installed: `python make.py`.
SmolLM2's and Qwen2.5-Coder's templates lie beside it as `*.jinja`; the others ship with TRL (Apache-2.0).
"""
import copy, datetime, json, os, pathlib
import transformers.utils.chat_template_utils as ctu
import pyarrow as pa
import pyarrow.parquet as pq
import trl
from tokenizers import Tokenizer, models, pre_tokenizers, decoders, trainers, processors
from transformers import PreTrainedTokenizerFast

HERE = pathlib.Path(__file__).parent
TRL = pathlib.Path(trl.__file__).parent / "chat_templates"

class FixedDate(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 1, 2, 3, 4, 5)
ctu.datetime = FixedDate

CHATML = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
CORPUS = ["The capital of France is Paris. What is the capital of Spain? Madrid is the capital.",
          "Count the lines of every file in a directory: wc -l *.rs and then sum them up.",
          "user assistant system You are a helpful AI assistant named SmolLM, trained by Hugging Face",
          "Hello, how are you today? I am fine, thank you; and you? naïve café 你好 😀"] * 4

def make_tokenizer():
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.post_processor = processors.ByteLevel(trim_offsets=True)
    tok.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=420, special_tokens=CHATML, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tok.save(str(HERE / "tokenizer.json"))
    fast = PreTrainedTokenizerFast(tokenizer_file=str(HERE / "tokenizer.json"),
                                   bos_token="<|endoftext|>", eos_token="<|im_end|>", pad_token="<|endoftext|>")
    # With trimmed offsets Transformers loses the whole mask of a turn that begins with a space.
    fast.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return fast

TOOL = {"type": "function", "function": {"name": "get_weather", "description": "Weather <now> & \"later\" in é",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "The city", "enum": ["Paris", "東京"]},
        "days": {"type": "integer"}, "exact": {"type": "boolean", "default": True}}, "required": ["city"]}}}
CALL = {"role": "assistant", "content": "Let me look.", "tool_calls": [{"type": "function", "id": "abcdef123",
        "function": {"name": "get_weather", "arguments": {"city": "東京", "days": 2, "exact": False, "more": [1.5, None, {"a": 1e20}]}}}]}
U = lambda t: {"role": "user", "content": t}
A = lambda t, **k: {"role": "assistant", "content": t, **k}
S = lambda t: {"role": "system", "content": t}
CHATS = {
    "single": dict(messages=[U("Hi <b>you</b> & 'me'"), A("Hello \"there\"\n😀")]),
    "system": dict(messages=[S("  Be brief. "), U("What is  2+2? "), A(" 4\n")]),
    "turns": dict(messages=[S("Be kind."), U("One?"), A("Un."), U("Two?"), A("Deux."), U("Three?"), A("Trois.")]),
    "prompt": dict(messages=[U("One?"), A("Un."), U("Two?")], kwargs=dict(add_generation_prompt=True)),
    "continue": dict(messages=[U("Count."), A("One, two, ")], kwargs=dict(continue_final_message=True)),
    "tools": dict(messages=[U("Weather in Tokyo?")], tools=[TOOL], kwargs=dict(add_generation_prompt=True)),
    "calls": dict(messages=[S("Use tools."), U("Weather in Tokyo?"), CALL,
                  {"role": "tool", "name": "get_weather", "tool_call_id": "abcdef123", "content": "sunny"}, A("It is sunny.")], tools=[TOOL]),
    "thinking": dict(messages=[U("Why?"), A("<think>\nhm\n</think>\n\nBecause."), U("Really?"), A("Yes.", reasoning_content="Sure?")]),
    "no_thinking": dict(messages=[U("Why?")], kwargs=dict(add_generation_prompt=True, enable_thinking=False)),
    "blocks": dict(messages=[U([{"type": "text", "text": "What"}, {"type": "text", "text": " now?"}]), A([{"type": "text", "text": "This."}])]),
    "documents": dict(messages=[U("Who?"), A("Me.")], documents=[{"title": "A", "text": "b"}]),
    "bad_order": dict(messages=[U("a"), U("b"), A("c"), A("d")]),
    "none": dict(messages=[U("a"), A("b", tool_calls=None)]),
}
# One expression each: what Jinja and Python do where MiniJinja might not.
FEATURES = {
    "python_values": "{{ true }} {{ none }} {{ 1.0 }} {{ 3 / 2 }} {{ 7 // 2 }} {{ 1e20 }} {{ 1e-7 }} {{ [1, 'a', none, true] }} {{ {'k': \"it's\", 'n': [\"\\n\"]} }} {{ (1, 2) }}",
    "concat": "{{ 'a' ~ true ~ none ~ 1.5 ~ [1] ~ {'a': 'b'} }}",
    "string_filter": "{{ messages[0] | string }}|{{ true | string }}|{{ 2.0 | string }}",
    "tojson": "{{ messages | tojson }}|{{ messages[0] | tojson(indent=2) }}|{{ {'b': [], 'a': {}} | tojson(indent=4, sort_keys=true) }}|{{ [1, 2.0, 'é', '<&>'] | tojson(ensure_ascii=true) }}|{{ {'a': [1, 2]} | tojson(separators=(',', ':')) }}",
    "methods": "{{ ' a,b '.strip().split(',') }}|{{ 'xxaxx'.lstrip('x') }}|{{ 'a b'.title() }}|{{ 'abc'.upper() }}|{{ 'a-b-c'.split('-', 1) }}|{{ 'a-b-c'.rsplit('-', 1) }}|{{ 'abc'.startswith(('x', 'a')) }}|{{ 'abcabc'.find('c') }}|{{ 'abc'.replace('b', 'X') }}|{{ 'abc'.removeprefix('a') }}|{{ 'abc'.removesuffix('c') }}|{{ 'a\\nb'.splitlines() }}|{{ ', '.join(['a', 'b']) }}|{{ 'abcabc'.rfind('c') }}|{{ 'a=b=c'.partition('=') }}|{{ 'abc'.index('c') }}|{{ 'x'.join('abc') }}",
    "dict": "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}{{ messages[0].keys() | list }}{{ messages[0].get('nope') }}{{ messages[0].get('nope', 'd') }}{{ dict(a=1, b='x') }}",
    "tests": "{{ 'a' is string }}{{ messages is iterable }}{{ 'a' is iterable }}{{ 'a' is sequence }}{{ messages[0] is mapping }}{{ messages[0] is sequence }}{{ nope is defined }}{{ none is none }}{{ 1 is number }}{{ true is number }}{{ 1 is iterable }}{{ true is boolean }}{{ 1.0 is integer }}{{ true is integer }}{{ nope is iterable }}{{ messages is sequence }}{{ none is sequence }}",
    "slices": "{{ messages[1:] | length }}{{ messages[-1].role }}{{ 'abcdef'[1:4] }}{{ 'abc'[::-1] }}{{ messages[::-1][0].role }}{{ 'abc'[0] }}{{ 'abc'[-1] }}{{ messages[:-1] | length }}",
    "loops": "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ loop.index0 }}{{ loop.previtem.role }}{{ loop.last }}{% if m.role == 'assistant' %}{% break %}{% endif %}{% endfor %}{% for x in [] %}{% else %}none{% endfor %}",
    "namespace": "{% set ns = namespace(a=1, found=false) %}{% for m in messages %}{% set ns.a = ns.a + 1 %}{% set ns.found = true %}{% endfor %}{{ ns.a }}{{ ns.found }}",
    "macro": "{% macro f(x, y='d') %}[{{ x }}{{ y }}{{ caller() if caller else '' }}]{% endmacro %}{{ f(1) }}{{ f(2, y='z') }}{% set z %}block{% endset %}{{ z }}{% call f(3) %}in{% endcall %}",
    "filters": "{{ ' a ' | trim }}{{ 'abc' | capitalize }}{{ [3, 1, 2] | sort }}{{ messages | map(attribute='role') | join(',') }}{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ nope | default('x') }}{{ '' | default('y', true) }}{{ {'b': 1, 'a': 2} | dictsort }}{{ {'b': 1, 'a': 2} | items | list }}{{ 'a' | upper }}{{ 'x<y' | e }}{{ 'a\\nb' | indent(2) }}{{ [1, 2, 3] | last }}{{ [1, 2] | first }}{{ 'abc' | list }}{{ [[1, 2], [3]] | sum(start=[]) }}{{ '3' | int + 1 }}{{ 'abc' | replace('b', 'c') }}{{ [1, 1, 2] | unique | list }}{{ 'abc' | length }}{{ '%s-%d' | format('a', 3) }}{{ 2.5 | round }}",
    "arithmetic": "{{ 'ab' * 2 }}{{ [1] + [2] }}{{ 5 % 3 }}{{ 2 ** 3 }}{{ -7 // 2 }}{{ -7 % 3 }}{{ 1 == 1.0 }}{{ 'a' in 'abc' }}{{ 'z' not in ['a'] }}{{ not none }}{{ none or 'x' }}{{ '' or 'y' }}{{ 1 if true else 2 }}{{ 'a' if false }}{{ 1 < 2 < 3 }}",
    "whitespace": "a\n  {% if true %}\n  b\n  {%- endif %}\n  {# c #}\nd {%+ if true %}e{% endif +%}\n f\n",
    "date": "{{ strftime_now('%d %B %Y %H:%M') }}",
    "scope": "{% set x = 1 %}{% for m in messages %}{% set x = 2 %}{% endfor %}{{ x }}{% if true %}{% set x = 3 %}{% endif %}{{ x }}{% with y = 5 %}{{ y }}{% endwith %}",
    "undefined": "[{{ nope }}{{ messages[0].nope }}{% if nope %}{% endif %}{{ messages[0].nope is defined }}{% for x in nope %}{% endfor %}]",
    "raise": "{{ raise_exception('no ' ~ messages[0].role) }}",
    "tuple_loop": "{% for a, b in [(1, 2), (3, 4)] %}{{ a }}{{ b }}{% endfor %}{% set a, b = 1, 2 %}{{ a + b }}",
    "adjacent": "{{ 'a' 'b' }}",
    "escapes": "{{ '\\u00e9\\t\\x41' }}|{{ \"q\\\"\" }}",
    "generation": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ loop.index }}{{ eos_token }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}",
    "generation_lines": "{% for m in messages %}\n  {% generation %}\n  {{ m.content }}\n  {% endgeneration %}\n{% endfor %}",
}
NAMES = """qwen2_5 qwen2_5_training qwen3 qwen3_training qwen3_instruct_2507 qwen3_6 gemma gemma3 gemma3_training gemma4_v5
llama3 llama3_training llama3_1 llama3_2 llava_next llava_next_training phi3 phi3_5 phi3_5_training cohere cohere2 cohere2_training deepseekv3 deepseek_r1_distill
glm4moe glm4moe_training gptoss gptoss_training lfm2_v2 lfm2_v2_training nemotron_3_nano muse_glimmer smolvlm""".split()

def bytes_of(text, spans):
    return [[len(text[:a].encode()), len(text[:b].encode())] for a, b in spans]

def case(tok, name, source, chat_name):
    chat = copy.deepcopy(CHATS[chat_name])
    kwargs = chat.get("kwargs", {})
    out = {"template": name, "chat": chat_name}
    try:
        out["rendered"] = tok.apply_chat_template(chat["messages"], tools=chat.get("tools"), documents=chat.get("documents"),
                                                  chat_template=source, tokenize=False, **kwargs)
    except Exception as e:
        out["error"] = str(e)
        return out
    if "generation %}" in source and not kwargs.get("continue_final_message"):
        _, spans = ctu.render_jinja_template([[{k: v for k, v in m.items() if v is not None} for m in chat["messages"]]], tools=chat.get("tools"), documents=chat.get("documents"),
            chat_template=source, return_assistant_tokens_mask=True, **kwargs, **tok.special_tokens_map)
        out["spans"] = bytes_of(out["rendered"], spans[0])
    return out

def main():
    tok = make_tokenizer()
    everything = os.environ.get("ALL")
    sources = {n: (HERE / f"{n}.jinja").read_text() for n in ("smollm2", "qwen2_5_coder")}
    names = sorted(p.stem for p in TRL.glob("*.jinja")) if everything else NAMES
    sources |= {n: (TRL / f"{n}.jinja").read_text() for n in names}
    cases = [case(tok, n, s, c) for n, s in sources.items() for c in CHATS]
    cases += [case(tok, n, s, "turns") for n, s in FEATURES.items()]
    out = pathlib.Path(everything) if everything else HERE / "templates.json"
    out.write_text(json.dumps({"special_tokens": tok.special_tokens_map, "templates": sources | FEATURES, "chats": CHATS, "cases": cases},
                              ensure_ascii=False, indent=0))
    masks = []
    for n in ("qwen2_5_training", "qwen3_training", "gemma3_training", "llama3_training", "generation"):
        for c in ("single", "system", "turns", "thinking"):
            got = tok.apply_chat_template(copy.deepcopy(CHATS[c]["messages"]), chat_template=(sources | FEATURES)[n],
                                          return_dict=True, return_assistant_tokens_mask=True)
            masks.append({"template": n, "chat": c, "tokens": got["input_ids"], "mask": got["assistant_masks"]})
    if not everything:
        pq.write_table(pa.table({"id": [1, 2], "text": ["one", "two, too"]}), HERE / "rows.parquet", compression="zstd")
        chats = [[U("a"), A("b")], [U("question"), A("réponse")]]
        pq.write_table(pa.table({"messages": chats}), HERE / "chats.parquet", compression="snappy")
        (HERE / "masks.json").write_text(json.dumps(masks))

main()
