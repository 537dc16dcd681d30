"""Adapters and merged models that the command makes, loaded by PEFT and Transformers."""

import json
import warnings

import torch
from peft import PeftConfig, PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, BitsAndBytesConfig

from command import distance, reference_logits

# Every way in which a recipe can choose, scale and begin an adapter.
METHODS = {
    "all-linear": "r = 4\nlora_alpha = 10",
    "dropout": "r = 4\nlora_alpha = 10\nlora_dropout = 0.1",
    "rslora-patterns": (
        "r = 5\nlora_alpha = 3\nuse_rslora = true\ntarget_modules = ['q_proj', 'v_proj', 'down_proj']\n"
        "rank_pattern = { 'down_proj' = 7, 'layers\\.0\\..*q_proj' = 2 }\nalpha_pattern = { 'v_proj' = 5 }"
    ),
    "regex": "r = 3\nlora_alpha = 7\ntarget_modules = 'model\\.layers\\.\\d+\\.(self_attn\\.[qk]_proj|mlp\\.up_proj)'",
    "layers-exclude": (
        "r = 3\nlora_alpha = 7\ntarget_modules = ['k_proj', 'up_proj', 'down_proj']\n"
        "exclude_modules = ['down_proj']\nlayers_to_transform = [1]\nlayers_pattern = ['layers']"
    ),
    "embedding-head": "r = 3\nlora_alpha = 7\ntarget_modules = ['embed_tokens', 'lm_head', 'o_proj']",
    "modules-to-save": "r = 3\nlora_alpha = 7\ntarget_modules = ['q_proj']\nmodules_to_save = ['embed_tokens', 'lm_head']",
    "head": "r = 3\nlora_alpha = 7\ntarget_modules = ['lm_head', 'o_proj']",
    "embedding": "r = 3\nlora_alpha = 7\ntarget_modules = ['embed_tokens', 'o_proj']",
    "embedding-pissa": "r = 3\nlora_alpha = 7\ntarget_modules = ['embed_tokens', 'o_proj']\ninit_lora_weights = 'pissa'",
    "projection-whole": "r = 3\nlora_alpha = 7\nmodules_to_save = ['o_proj']",
    "pissa-embedding-whole": "r = 3\nlora_alpha = 7\ninit_lora_weights = 'pissa'\nmodules_to_save = ['embed_tokens']",
    "gaussian": "r = 4\nlora_alpha = 10\ninit_lora_weights = 'gaussian'",
    "random": "r = 4\nlora_alpha = 10\ninit_lora_weights = false",
    "pissa": "r = 4\nlora_alpha = 10\ninit_lora_weights = 'pissa'",
    "pissa-niter": "r = 4\nlora_alpha = 10\ninit_lora_weights = 'pissa_niter_4'",
    "pissa-patterns": (
        "r = 5\nlora_alpha = 3\ninit_lora_weights = 'pissa'\n"
        "rank_pattern = { 'down_proj' = 7, 'layers\\.0\\..*q_proj' = 2 }\nalpha_pattern = { 'v_proj' = 5 }"
    ),
    "pissa-rslora": "r = 5\nlora_alpha = 3\nuse_rslora = true\ninit_lora_weights = 'pissa'",
    "olora": "r = 4\nlora_alpha = 10\ninit_lora_weights = 'olora'",
    "dora": "r = 4\nlora_alpha = 10\nuse_dora = true",
    "dora-exact-dropout": "r = 5\nlora_alpha = 3\nuse_rslora = true\nlora_dropout = 0.1\nuse_dora = true\nexact_norm = true",
    "dora-magnitude-only": (
        "r = 3\nlora_alpha = 7\ntarget_modules = ['q_proj', 'down_proj']\nlayers_to_transform = [1]\n"
        "use_dora = true\nmagnitude_only_modules = ['up_proj', 'down_proj']"
    ),
    "dora-magnitude-only-pissa": (
        "r = 3\nlora_alpha = 7\ntarget_modules = ['q_proj', 'down_proj']\ninit_lora_weights = 'pissa'\n"
        "use_dora = true\nmagnitude_only_modules = ['up_proj', 'down_proj']"
    ),
    "dora-rslora-patterns": (
        "r = 5\nlora_alpha = 3\nuse_dora = true\nuse_rslora = true\n"
        "rank_pattern = { 'down_proj' = 7 }\nalpha_pattern = { 'v_proj' = 5 }"
    ),
    "dora-head": "r = 4\nlora_alpha = 10\nuse_dora = true\ntarget_modules = ['lm_head', 'q_proj']",
    "dora-ends-whole": "r = 4\nlora_alpha = 10\nuse_dora = true\nmodules_to_save = ['embed_tokens', 'lm_head']",
    "dora-olora": "r = 4\nlora_alpha = 10\nuse_dora = true\ninit_lora_weights = 'olora'",
    "dora-pissa": "r = 4\nlora_alpha = 10\nuse_dora = true\ninit_lora_weights = 'pissa'",
    "olora-rslora": "r = 4\nlora_alpha = 10\nuse_rslora = true\ninit_lora_weights = 'olora'",
    "ia3": "kind = 'ia3'",
    "ia3-outputs": "kind = 'ia3'\ntarget_modules = ['q_proj', 'gate_proj']",
    "ia3-everything": (
        "kind = 'ia3'\ntarget_modules = 'all-linear'\nfeedforward_modules = '.*\\.(o_proj|down_proj)'\n"
        "init_ia3_weights = false"
    ),
}


def load_peft(report, what, base, adapter):
    """The adapter as PEFT loads it; what PEFT complains of is a failure."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        PeftConfig.from_pretrained(adapter)
        model = PeftModel.from_pretrained(base, adapter).eval()
    said = [str(one.message) for one in caught]
    # Of every adapter on a tied layer, its own included, PEFT warns that merging will untie it.
    said = [text for text in said if "`ensure_weight_tying` is not set" not in text]
    said = [text for text in said if "adapter" in text.lower() or "nexpected" in text or "gnored" in text]
    report.check(f"{what}: PEFT loads it without a complaint", not said, "; ".join(said))
    return model


def load_model(report, what, folder, kind=AutoModelForCausalLM):
    """The model as Transformers loads it; a key too many or too few is a failure."""
    model, info = kind.from_pretrained(folder, attn_implementation="eager", output_loading_info=True)
    wrong = {name: sorted(map(str, keys)) for name, keys in info.items() if keys}
    report.check(f"{what}: Transformers loads it whole", not wrong, str(wrong) if wrong else "")
    return model.float().eval()


def base_model(base, kind=AutoModelForCausalLM, **more):
    return kind.from_pretrained(base, attn_implementation="eager", **more).float().eval()


def adapters(report, finetune, base, chats):
    """Each kind of adapter: ours against PEFT's reading of it, and the merged model against both."""
    before = finetune.logits(base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    report.close("base: our logits are those of Transformers", before, reference_logits(base_model(base), tokenizer, finetune.texts))
    for name, surgery in METHODS.items():
        surgery = surgery if surgery.startswith("kind") else f"kind = 'lora'\n{surgery}"
        adapter = finetune.train(name, base, surgery, chats)
        ours = finetune.logits(base, adapter)
        report.moved(f"{name}: training moved it", ours, before)
        tokenizer = AutoTokenizer.from_pretrained(adapter)
        peft = load_peft(report, name, base_model(base), adapter)
        theirs = reference_logits(peft, tokenizer, finetune.texts)
        report.close(f"{name}: our adapter says in PEFT what it says here", ours, theirs)
        merged = finetune.work / "merged" / name
        finetune("merge", "--model", base, "--adapter", adapter, "--output", merged)
        model = load_model(report, f"{name}, merged", merged)
        tokenizer = AutoTokenizer.from_pretrained(merged)
        report.close(f"{name}: merged, it says so in Transformers", reference_logits(model, tokenizer, finetune.texts), theirs)
        report.close(f"{name}: merged, it says so here", finetune.logits(merged), theirs)


def combined(report, finetune, base, chats):
    """Two adapters in one: ours as PEFT reads it, and PEFT's as we do."""
    one = finetune.train("first", base, "kind = 'lora'\nr = 4\nlora_alpha = 10", chats)
    two = finetune.train("second", base, "kind = 'lora'\nr = 4\nlora_alpha = 10\nlora_dropout = 0.3", chats)
    tokenizer = AutoTokenizer.from_pretrained(one)
    for name, options in (
        ("sum", ["--type", "sum"]),
        ("svd", ["--type", "svd", "--rank", "4"]),
        ("linear", ["--type", "linear"]),
        ("ties", ["--type", "ties", "--density", "0.5"]),
    ):
        folder = finetune.work / "combined" / name
        finetune("combine", "--adapter", f"{one}=0.7", "--adapter", f"{two}=0.4", *options, "--output", folder)
        ours = finetune.logits(base, folder)
        theirs = reference_logits(load_peft(report, f"combined by {name}", base_model(base), folder), tokenizer, finetune.texts)
        report.close(f"combined by {name}: it says in PEFT what it says here", ours, theirs)
        if name == "sum":
            continue
        peft = PeftModel.from_pretrained(base_model(base), one, adapter_name="one").eval()
        peft.load_adapter(two, adapter_name="two")
        more = {"svd": {"svd_rank": 4}, "ties": {"density": 0.5}}.get(name, {})
        peft.add_weighted_adapter(["one", "two"], [0.7, 0.4], "both", combination_type=name, **more)
        peft.set_adapter("both")
        wanted = reference_logits(peft, tokenizer, finetune.texts)
        report.close(f"combined by {name}: PEFT's own combination says the same", ours, wanted)
        peft.save_pretrained(finetune.work / "combined-by-peft" / name, selected_adapters=["both"])
        back = finetune.logits(base, finetune.work / "combined-by-peft" / name / "both")
        report.close(f"combined by {name}: PEFT's file says here what it says there", back, wanted)


def dequantised_logits(folder, tokenizer, texts):
    """What a 4-bit model stands for, dequantised in f32: bitsandbytes' own product on CPUs rounds scales to bf16."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    for module in model.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None:
            state.dtype = torch.float32
    return reference_logits(model.dequantize().float().eval(), tokenizer, texts)


def quantised(report, finetune, base):
    """4-bit checkpoints: ours as Transformers reads them with bitsandbytes, and theirs as we do."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    # Rows of whole blocks: bitsandbytes' CPU path takes no others.
    config = AutoConfig.from_pretrained(base)
    config.hidden_size, config.intermediate_size, config.head_dim = 64, 128, 16
    torch.manual_seed(0)
    base = finetune.work / "wide"
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(base)
    tokenizer.save_pretrained(base)
    before = finetune.logits(base)
    for scheme in ("nf4", "fp4"):
        for double in (False, True):
            name = f"{scheme}{', scales in 8 bits' if double else ''}"
            place = f"{scheme}-{'double' if double else 'plain'}"
            folder = finetune.work / "quantised" / place
            finetune("quantize", "--model", base, "--scheme", scheme, *(["--double-quant"] if double else []), "--output", folder)
            ours = finetune.logits(folder)
            report.moved(f"{name}: quantising moved it", ours, before)
            wanted = dequantised_logits(folder, tokenizer, finetune.texts)
            report.close(f"{name}: our 4-bit model says in Transformers what it says here", ours, wanted)
            config = BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type=scheme, bnb_4bit_use_double_quant=double,
                bnb_4bit_compute_dtype=torch.float32,
            )
            made = AutoModelForCausalLM.from_pretrained(
                base, attn_implementation="eager", dtype=torch.float32, quantization_config=config
            )
            back = finetune.work / "quantised-by-them" / place
            made.save_pretrained(back)
            tokenizer.save_pretrained(back)
            wanted = dequantised_logits(back, tokenizer, finetune.texts)
            report.close(f"{name}: their 4-bit model says here what it says there", finetune.logits(back), wanted)


# What is trained over packed weights: PEFT reads it over what these weights stand for.
OVER_PACKED = {
    "lora": "kind = 'lora'\nr = 4\nlora_alpha = 10",
    "loftq": "kind = 'lora'\nr = 4\nlora_alpha = 10\ninit_lora_weights = 'loftq'",
    "loftq-rslora-patterns": (
        "kind = 'lora'\nr = 5\nlora_alpha = 3\nuse_rslora = true\ninit_lora_weights = 'loftq'\n"
        "rank_pattern = { 'down_proj' = 7 }\nalpha_pattern = { 'v_proj' = 5 }"
    ),
    "dora": "kind = 'dora'\nr = 4\nlora_alpha = 10",
    "dora-loftq": "kind = 'dora'\nr = 4\nlora_alpha = 10\ninit_lora_weights = 'loftq'",
}


def over_packed(report, finetune, base, chats):
    """Adapters that were trained over packed weights: ours, merged, and in PEFT over the dequantised weights."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    for scheme in ("nf4", "fp4", "int8"):
        dense = finetune.work / "dense" / scheme
        finetune("quantize", "--model", base, "--scheme", scheme, "--dense", "--dtype", "f32", "--output", dense)
        for name, surgery in OVER_PACKED.items():
            what = f"{name} over {scheme}"
            surgery = f"kind = 'quantize'\nscheme = '{scheme}'\n\n[[surgery]]\n{surgery}"
            adapter = finetune.train(f"{name}-{scheme}", base, surgery, chats)
            peft = load_peft(report, what, base_model(dense), adapter)
            theirs = reference_logits(peft, tokenizer, finetune.texts)
            report.moved(f"{what}: training moved it", theirs, finetune.logits(dense))
            merged = finetune.work / "merged" / f"{name}-{scheme}"
            finetune("merge", "--model", base, "--adapter", adapter, "--output", merged)
            model = load_model(report, f"{what}, merged", merged)
            report.close(f"{what}: merged, it says in Transformers what it says in PEFT", reference_logits(model, tokenizer, finetune.texts), theirs)
            report.close(f"{what}: it says here what it says in PEFT", finetune.logits(dense, adapter), theirs)


def classifier(report, finetune, base):
    """A new head and an adapter under it: PEFT's SEQ_CLS."""
    labels = ["bad", "good"]
    rows = [{"text": f"{finetune.texts[n % 3]} {labels[n % 2]} {n}", "label": labels[n % 2]} for n in range(16)]
    data = finetune.rows("classes.jsonl", rows)
    adapter = finetune.train("classifier", base, "kind = 'lora'\nr = 3\nlora_alpha = 7", data, objective="classify")
    merged = finetune.work / "merged/classifier"
    finetune("merge", "--model", base, "--adapter", adapter, "--output", merged)
    peft = load_peft(report, "classifier", base_model(base, AutoModelForSequenceClassification, num_labels=2), adapter)
    model = load_model(report, "classifier, merged", merged, AutoModelForSequenceClassification)
    report.equal("classifier: the classes have their names", model.config.id2label, dict(enumerate(labels)))
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    said = [[], []]
    with torch.no_grad():
        for row in rows:
            tokens = tokenizer(row["text"], return_tensors="pt").input_ids
            for side, one in zip(said, (peft, model), strict=True):
                side.append(one(tokens, use_cache=False).logits)
    report.close("classifier: the merged model says what the adapter says in PEFT", said[1], said[0])
    suite = f"[[task]]\nname = 'classes'\nkind = 'classification'\ndata = {json.dumps(str(data))}\nmax_length = 96\n"
    suite = finetune.write("suite.toml", suite)
    chosen = [int(one.argmax()) for one in said[0]]
    confusion = [[sum(c == p and r["label"] == l for c, r in zip(chosen, rows)) for p in (0, 1)] for l in labels]
    for name, arguments in (("adapter", ("--model", base, "--adapter", adapter)), ("merged", ("--model", merged))):
        found = json.loads(finetune("evaluate", *arguments, "--suite", suite, "--json", "--dtype", "f32"))
        report.equal(f"classifier, {name}: our classes are PEFT's", found["tasks"]["classes"]["confusion"], confusion)


def whole_models(report, finetune, base, gguf, chats):
    """Full fine-tuning, export and import."""
    before = finetune.logits(base)
    mixture = "kind = 'upcycle'\nnum_local_experts = 3\nnum_experts_per_tok = 2\nnoise_scale = 0.1\n\n[[surgery]]\n"
    for name, surgery in (
        ("full-norms", "kind = 'full'\nunfrozen_parameters = ['norm\\.weight$']"),
        ("hft", "kind = 'hft'\nresample = 1"),
        ("lisa", "kind = 'hft'\ngranularity = 'lisa'\nlisa_n_layers = 1\nlisa_step_interval = 1\nfreeze_embeddings = false\nfreeze_head = false"),
        ("upcycled-full", f"{mixture}kind = 'full'"),
        ("upcycled-hft", f"{mixture}kind = 'hft'"),
    ):
        run = finetune.train(name, base, surgery, chats)
        ours = finetune.logits(run)
        report.moved(f"{name}: training moved it", ours, before)
        model = load_model(report, name, run)
        tokenizer = AutoTokenizer.from_pretrained(run)
        report.close(f"{name}: it says in Transformers what it says here", ours, reference_logits(model, tokenizer, finetune.texts))
    run = finetune.train("full", base, "kind = 'full'", chats, more="weight_decay = 0.01")
    ours = finetune.logits(run)
    report.moved("full: training moved it", ours, before)
    for name, folder, wanted in (
        ("full", run, ours),
        ("exported", finetune.work / "exported", ours),
        ("imported from GGUF", finetune.work / "imported", finetune.logits(gguf)),
    ):
        if name == "exported":
            finetune("export", "--model", run, "--format", "hf", "--output", folder)
        if name.startswith("imported"):
            finetune("import", gguf, "--output", folder)
        model = load_model(report, name, folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        report.close(f"{name}: it says in Transformers what it says here", wanted, reference_logits(model, tokenizer, finetune.texts))
    half = finetune.work / "exported-bf16"
    finetune("export", "--model", run, "--format", "hf", "--output", half, "--dtype", "bf16")
    model = AutoModelForCausalLM.from_pretrained(half)
    report.equal("exported as bf16: that is its dtype", model.dtype, torch.bfloat16)
    rounded = reference_logits(model.float().eval(), AutoTokenizer.from_pretrained(half), finetune.texts)
    apart = distance(rounded, ours)
    report.check("exported as bf16: it says nearly the same", apart < 0.05, f"{apart:.1e} apart")


def pruned(report, finetune, base, chats):
    """Sparse and smaller models, and what is trained over zeros."""
    before = finetune.logits(base)
    sparse = finetune.work / "sparse"
    finetune("prune", "--model", base, "--method", "sparsegpt", "--pattern", "2:4", "--calibration", chats,
             "--output", sparse, "--dtype", "f32")
    adapter = finetune.train("over-zeros", sparse, "kind = 'lora'\nr = 3\n\n[[surgery]]\nkind = 'keep_zeros'", chats)
    merged = finetune.work / "sparse-merged"
    finetune("merge", "--model", sparse, "--adapter", adapter, "--output", merged)
    shallow, narrow = finetune.work / "shallow", finetune.work / "narrow"
    finetune("prune", "--model", base, "--method", "block-influence", "--num-hidden-layers", 1, "--calibration", chats,
             "--output", shallow, "--dtype", "f32")
    finetune("prune", "--model", base, "--method", "taylor", "--num-key-value-heads", 1, "--intermediate-size", 40,
             "--calibration", chats, "--output", narrow, "--dtype", "f32")
    for name, folder in (("shallow", shallow), ("narrow", narrow)):
        model, ours = load_model(report, name, folder), finetune.logits(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        report.close(f"{name}: it says in Transformers what it says here", ours, reference_logits(model, tokenizer, finetune.texts))
    for name, folder in (("sparse", sparse), ("sparse, tuned and merged", merged)):
        model, ours = load_model(report, name, folder), finetune.logits(folder)
        report.moved(f"{name}: pruning moved it", ours, before)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        report.close(f"{name}: it says in Transformers what it says here", ours, reference_logits(model, tokenizer, finetune.texts))
        shares = {
            round((module.weight == 0).float().mean().item(), 6)
            for path, module in model.named_modules()
            if path.endswith("_proj")
        }
        report.equal(f"{name}: half of each matrix is zero", shares, {0.5})
