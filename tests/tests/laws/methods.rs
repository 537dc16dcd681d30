//! The list of methods with their initialisations and variants, as data. What enters here is held to every law.

use super::bases::Stock::{self, Dense, Experts, Pruned};

/// What a run leaves, which says what can be done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// PEFT's adapter: it can be merged.
    Peft,
    /// Bottleneck adapters or a memory: functions that no matrix is.
    Beside,
    /// The whole model.
    Whole,
}

/// A method in one variant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Method {
    pub(crate) name: &'static str,
    /// The recipe's surgeries, each without its header.
    pub(crate) surgery: &'static [&'static str],
    pub(crate) form: Form,
    pub(crate) stock: Stock,
    pub(crate) objective: &'static str,
}

const fn method(name: &'static str, form: Form, stock: Stock, surgery: &'static [&'static str]) -> Method {
    let objective = "sft";
    Method {
        name,
        surgery,
        form,
        stock,
        objective,
    }
}

const fn lora(name: &'static str, surgery: &'static [&'static str]) -> Method {
    method(name, Form::Peft, Dense, surgery)
}

const fn beside(name: &'static str, surgery: &'static [&'static str]) -> Method {
    method(name, Form::Beside, Dense, surgery)
}

const fn whole(name: &'static str, surgery: &'static [&'static str]) -> Method {
    method(name, Form::Whole, Dense, surgery)
}

const fn learning(method: Method, objective: &'static str) -> Method {
    Method { objective, ..method }
}

const fn over(stock: Stock, method: Method) -> Method {
    Method { stock, ..method }
}

/// Every method.
pub(crate) const METHODS: &[Method] = &[
    lora("lora", &["kind = 'lora'\nr = 4\nlora_alpha = 10"]),
    lora(
        "lora, gaussian",
        &["kind = 'lora'\nr = 4\nlora_alpha = 10\ninit_lora_weights = 'gaussian'"],
    ),
    lora(
        "lora, random",
        &["kind = 'lora'\nr = 4\nlora_alpha = 10\ninit_lora_weights = false"],
    ),
    lora(
        "lora, pissa",
        &["kind = 'lora'\nr = 4\nlora_alpha = 10\ninit_lora_weights = 'pissa'"],
    ),
    lora(
        "lora, pissa by iterations",
        &["kind = 'lora'\nr = 4\nlora_alpha = 10\ninit_lora_weights = 'pissa_niter_4'"],
    ),
    lora(
        "lora, olora",
        &["kind = 'lora'\nr = 4\nlora_alpha = 10\ninit_lora_weights = 'olora'"],
    ),
    lora(
        "lora, loftq",
        &["kind = 'lora'\nr = 4\nlora_alpha = 10\ninit_lora_weights = 'loftq'"],
    ),
    lora(
        "lora, rank-stabilised",
        &["kind = 'lora'\nr = 5\nlora_alpha = 3\nuse_rslora = true"],
    ),
    lora(
        "lora, rank-stabilised pissa",
        &["kind = 'lora'\nr = 5\nlora_alpha = 3\nuse_rslora = true\ninit_lora_weights = 'pissa'"],
    ),
    lora(
        "lora, rank-stabilised loftq",
        &["kind = 'lora'\nr = 5\nlora_alpha = 3\nuse_rslora = true\ninit_lora_weights = 'loftq'"],
    ),
    lora(
        "lora, patterns",
        &[
            "kind = 'lora'\nr = 5\nlora_alpha = 3\nrank_pattern = { down_proj = 7, 'layers\\.0\\..*q_proj' = 2 }\nalpha_pattern = { v_proj = 5 }",
        ],
    ),
    lora(
        "lora, patterns, pissa",
        &[
            "kind = 'lora'\nr = 5\nlora_alpha = 3\ninit_lora_weights = 'pissa'\nrank_pattern = { down_proj = 7, 'layers\\.0\\..*q_proj' = 2 }\nalpha_pattern = { v_proj = 5 }",
        ],
    ),
    lora(
        "lora, patterns, loftq",
        &[
            "kind = 'lora'\nr = 5\nlora_alpha = 3\ninit_lora_weights = 'loftq'\nrank_pattern = { down_proj = 7, 'layers\\.0\\..*q_proj' = 2 }\nalpha_pattern = { v_proj = 5 }",
        ],
    ),
    lora(
        "lora, dropout",
        &["kind = 'lora'\nr = 4\nlora_alpha = 10\nlora_dropout = 0.2"],
    ),
    lora(
        "lora, regular expression",
        &[
            "kind = 'lora'\nr = 3\nlora_alpha = 7\ntarget_modules = 'model\\.layers\\.\\d+\\.(self_attn\\.[qk]_proj|mlp\\.up_proj)'",
        ],
    ),
    lora(
        "lora, layers and exclusions",
        &[
            "kind = 'lora'\nr = 3\nlora_alpha = 7\ntarget_modules = ['k_proj', 'up_proj', 'down_proj']\nexclude_modules = ['down_proj']\nlayers_to_transform = [1]\nlayers_pattern = ['layers']",
        ],
    ),
    lora(
        "lora, embedding",
        &["kind = 'lora'\nr = 3\nlora_alpha = 7\ntarget_modules = ['embed_tokens', 'o_proj']"],
    ),
    lora(
        "lora, head",
        &["kind = 'lora'\nr = 3\nlora_alpha = 7\ntarget_modules = ['lm_head', 'o_proj']"],
    ),
    lora(
        "lora, embedding and head",
        &["kind = 'lora'\nr = 3\nlora_alpha = 7\ntarget_modules = ['embed_tokens', 'lm_head', 'o_proj']"],
    ),
    lora(
        "lora, embedding, pissa",
        &[
            "kind = 'lora'\nr = 3\nlora_alpha = 7\ntarget_modules = ['embed_tokens', 'o_proj']\ninit_lora_weights = 'pissa'",
        ],
    ),
    lora(
        "lora, embedding, loftq",
        &[
            "kind = 'lora'\nr = 3\nlora_alpha = 7\ntarget_modules = ['embed_tokens', 'o_proj']\ninit_lora_weights = 'loftq'",
        ],
    ),
    lora(
        "lora, head, pissa",
        &["kind = 'lora'\nr = 3\nlora_alpha = 7\ntarget_modules = ['lm_head']\ninit_lora_weights = 'pissa'"],
    ),
    lora(
        "lora, embedding whole",
        &["kind = 'lora'\nr = 3\nlora_alpha = 7\ntarget_modules = ['q_proj']\nmodules_to_save = ['embed_tokens']"],
    ),
    lora(
        "lora, head whole",
        &["kind = 'lora'\nr = 3\nlora_alpha = 7\ntarget_modules = ['q_proj']\nmodules_to_save = ['lm_head']"],
    ),
    lora(
        "lora, both ends whole",
        &[
            "kind = 'lora'\nr = 3\nlora_alpha = 7\ntarget_modules = ['q_proj']\nmodules_to_save = ['embed_tokens', 'lm_head']",
        ],
    ),
    lora(
        "lora, projection whole",
        &["kind = 'lora'\nr = 3\nlora_alpha = 7\nmodules_to_save = ['o_proj']"],
    ),
    lora(
        "lora, pissa, embedding whole",
        &["kind = 'lora'\nr = 3\nlora_alpha = 7\ninit_lora_weights = 'pissa'\nmodules_to_save = ['embed_tokens']"],
    ),
    learning(
        lora("lora, classifier", &["kind = 'lora'\nr = 4\nlora_alpha = 10"]),
        "classify",
    ),
    lora(
        "lora with use_dora",
        &["kind = 'lora'\nr = 4\nlora_alpha = 10\nuse_dora = true"],
    ),
    lora("dora", &["kind = 'dora'\nr = 4\nlora_alpha = 10"]),
    lora(
        "dora, exact norm",
        &["kind = 'dora'\nr = 4\nlora_alpha = 10\nexact_norm = true"],
    ),
    lora(
        "dora, dropout",
        &["kind = 'dora'\nr = 4\nlora_alpha = 10\nlora_dropout = 0.2"],
    ),
    lora(
        "dora, magnitudes alone",
        &[
            "kind = 'dora'\nr = 4\nlora_alpha = 10\ntarget_modules = ['q_proj', 'down_proj']\nmagnitude_only_modules = ['up_proj', 'down_proj']",
        ],
    ),
    lora(
        "dora, magnitudes alone, pissa",
        &[
            "kind = 'dora'\nr = 4\nlora_alpha = 10\ninit_lora_weights = 'pissa'\ntarget_modules = ['q_proj', 'down_proj']\nmagnitude_only_modules = ['up_proj', 'down_proj']",
        ],
    ),
    lora(
        "dora, magnitudes alone, loftq",
        &[
            "kind = 'dora'\nr = 4\nlora_alpha = 10\ninit_lora_weights = 'loftq'\ntarget_modules = ['q_proj', 'down_proj']\nmagnitude_only_modules = ['up_proj', 'down_proj']",
        ],
    ),
    lora(
        "dora, pissa",
        &["kind = 'dora'\nr = 4\nlora_alpha = 10\ninit_lora_weights = 'pissa'"],
    ),
    lora(
        "dora, olora",
        &["kind = 'dora'\nr = 4\nlora_alpha = 10\ninit_lora_weights = 'olora'"],
    ),
    lora(
        "dora, loftq",
        &["kind = 'dora'\nr = 4\nlora_alpha = 10\ninit_lora_weights = 'loftq'"],
    ),
    lora(
        "dora, rank-stabilised with patterns",
        &[
            "kind = 'dora'\nr = 5\nlora_alpha = 3\nuse_rslora = true\nrank_pattern = { down_proj = 7 }\nalpha_pattern = { v_proj = 5 }",
        ],
    ),
    lora(
        "dora, head",
        &["kind = 'dora'\nr = 4\nlora_alpha = 10\ntarget_modules = ['lm_head', 'q_proj']"],
    ),
    lora(
        "dora, embedding",
        &["kind = 'dora'\nr = 4\nlora_alpha = 10\ntarget_modules = ['embed_tokens', 'q_proj']"],
    ),
    lora(
        "dora, both ends whole",
        &["kind = 'dora'\nr = 4\nlora_alpha = 10\nmodules_to_save = ['embed_tokens', 'lm_head']"],
    ),
    learning(
        lora("dora, classifier", &["kind = 'dora'\nr = 4\nlora_alpha = 10"]),
        "classify",
    ),
    beside(
        "adapter, behind the feed-forward",
        &["kind = 'adapter'\nreduction_factor = 4"],
    ),
    beside(
        "adapter, behind both",
        &["kind = 'adapter'\nconfig = 'double_seq_bn'\nreduction_factor = 4"],
    ),
    beside("adapter, beside", &["kind = 'adapter'\nconfig = 'par_bn'"]),
    beside(
        "adapter, beside attention",
        &["kind = 'adapter'\nconfig = 'par_bn'\nmh_adapter = true\noutput_adapter = false"],
    ),
    beside(
        "adapter, learned scale",
        &["kind = 'adapter'\nreduction_factor = 4\nscaling = 'learned'\ninit_weights = 'bert'"],
    ),
    beside(
        "adapter, by layer",
        &[
            "kind = 'adapter'\nreduction_factor = { default = 4, 1 = 8 }\ninit_weights = 'mam_adapter'\nnon_linearity = 'gelu'",
        ],
    ),
    beside(
        "adapter, a layer left out",
        &["kind = 'adapter'\nreduction_factor = 4\nleave_out = [0]\ninit_weights = 'houlsby'\ndropout = 0.2"],
    ),
    beside(
        "adapter, with norms",
        &["kind = 'adapter'\nreduction_factor = 4\ntrain_norms = true"],
    ),
    learning(
        beside("adapter, classifier", &["kind = 'adapter'\nreduction_factor = 4"]),
        "classify",
    ),
    whole("full", &["kind = 'full'"]),
    whole("full, embeddings frozen", &["kind = 'full'\nfreeze_embeddings = true"]),
    whole(
        "full, norms",
        &["kind = 'full'\nunfrozen_parameters = ['norm\\.weight$']"],
    ),
    whole(
        "full, twice",
        &[
            "kind = 'full'\nunfrozen_parameters = ['norm\\.weight$']",
            "kind = 'full'\nunfrozen_parameters = ['q_proj']",
        ],
    ),
    learning(whole("full, classifier", &["kind = 'full'"]), "classify"),
    whole("hft", &["kind = 'hft'"]),
    whole("hft, drawn anew", &["kind = 'hft'\nresample = 1"]),
    whole(
        "hft, complement",
        &["kind = 'hft'\nresample = 1\ncomplement = true\ngranularity = 'stratified'"],
    ),
    whole("hft, layers", &["kind = 'hft'\ngranularity = 'layer'"]),
    whole(
        "hft, any matrix, both ends too",
        &["kind = 'hft'\ngranularity = 'model'\nskip_embeddings_and_head = false"],
    ),
    whole(
        "hft, last layer",
        &["kind = 'hft'\ngranularity = 'fixed_layers'\nfreeze_trainable_layers = 1"],
    ),
    whole(
        "hft, by pattern",
        &["kind = 'hft'\ngranularity = 'pattern'\nunfrozen_parameters = ['mlp']"],
    ),
    whole(
        "lisa",
        &[
            "kind = 'hft'\ngranularity = 'lisa'\nlisa_n_layers = 1\nlisa_step_interval = 1\nfreeze_embeddings = false\nfreeze_head = false",
        ],
    ),
    learning(whole("hft, classifier", &["kind = 'hft'"]), "classify"),
    whole(
        "prune, full",
        &["kind = 'prune'\nmethod = 'magnitude'\nsparsity = 0.5", "kind = 'full'"],
    ),
    whole(
        "prune, full, keep zeros",
        &[
            "kind = 'prune'\nmethod = 'magnitude'\npattern = '2:4'",
            "kind = 'full'",
            "kind = 'keep_zeros'",
        ],
    ),
    whole(
        "wanda, full, keep zeros",
        &[
            "kind = 'prune'\nmethod = 'wanda'\nsparsity = 0.5\ncalibration = 'rows.jsonl'",
            "kind = 'full'",
            "kind = 'keep_zeros'",
        ],
    ),
    whole(
        "sparsegpt, hft, keep zeros",
        &[
            "kind = 'prune'\nmethod = 'sparsegpt'\nsparsity = 0.5\ncalibration = 'rows.jsonl'",
            "kind = 'hft'\nresample = 1",
            "kind = 'keep_zeros'",
        ],
    ),
    over(
        Pruned,
        lora(
            "lora, keep zeros",
            &["kind = 'lora'\nr = 4\nlora_alpha = 10", "kind = 'keep_zeros'"],
        ),
    ),
    over(
        Pruned,
        lora(
            "lora, pissa, keep zeros",
            &[
                "kind = 'lora'\nr = 4\nlora_alpha = 10\ninit_lora_weights = 'pissa'",
                "kind = 'keep_zeros'",
            ],
        ),
    ),
    over(
        Pruned,
        lora(
            "lora, dropout, keep zeros",
            &[
                "kind = 'lora'\nr = 4\nlora_alpha = 10\nlora_dropout = 0.1",
                "kind = 'keep_zeros'",
            ],
        ),
    ),
    over(
        Pruned,
        lora(
            "lora, a few modules, keep zeros",
            &[
                "kind = 'lora'\nr = 4\nlora_alpha = 10\ntarget_modules = ['q_proj', 'embed_tokens']",
                "kind = 'keep_zeros'",
            ],
        ),
    ),
    over(
        Pruned,
        lora(
            "lora, projection whole, keep zeros",
            &[
                "kind = 'lora'\nr = 4\nlora_alpha = 10\nmodules_to_save = ['o_proj']",
                "kind = 'keep_zeros'",
            ],
        ),
    ),
    over(
        Pruned,
        lora(
            "dora, keep zeros",
            &["kind = 'dora'\nr = 4\nlora_alpha = 10", "kind = 'keep_zeros'"],
        ),
    ),
    over(
        Pruned,
        beside(
            "adapter, keep zeros",
            &["kind = 'adapter'\nreduction_factor = 4", "kind = 'keep_zeros'"],
        ),
    ),
    over(
        Pruned,
        whole("full, keep zeros", &["kind = 'full'", "kind = 'keep_zeros'"]),
    ),
    over(
        Pruned,
        whole(
            "full, norms, keep zeros",
            &[
                "kind = 'full'\nunfrozen_parameters = ['norm\\.weight$']",
                "kind = 'keep_zeros'",
            ],
        ),
    ),
    over(
        Pruned,
        whole(
            "hft, keep zeros",
            &["kind = 'hft'\nresample = 1", "kind = 'keep_zeros'"],
        ),
    ),
    whole(
        "upcycle, full",
        &[
            "kind = 'upcycle'\nnum_local_experts = 3\nnum_experts_per_tok = 2\nnoise_scale = 0.1",
            "kind = 'full'",
        ],
    ),
    whole(
        "upcycle, drawn anew, hft",
        &[
            "kind = 'upcycle'\nnum_local_experts = 3\nnum_experts_per_tok = 2\nreinitialise = 0.5",
            "kind = 'hft'",
        ],
    ),
    whole(
        "prune, upcycle, full",
        &[
            "kind = 'prune'\nmethod = 'magnitude'\nsparsity = 0.5",
            "kind = 'upcycle'\nnum_local_experts = 3\nnum_experts_per_tok = 2",
            "kind = 'full'",
        ],
    ),
    over(
        Experts,
        lora("experts, lora", &["kind = 'lora'\nr = 4\nlora_alpha = 10"]),
    ),
    over(
        Experts,
        lora(
            "experts, lora, attention",
            &["kind = 'lora'\nr = 4\nlora_alpha = 10\ntarget_modules = ['q_proj', 'v_proj']"],
        ),
    ),
    over(
        Experts,
        lora(
            "experts, lora, pissa",
            &["kind = 'lora'\nr = 4\nlora_alpha = 10\ninit_lora_weights = 'pissa'"],
        ),
    ),
    over(
        Experts,
        lora(
            "experts, lora, loftq",
            &["kind = 'lora'\nr = 4\nlora_alpha = 10\ninit_lora_weights = 'loftq'"],
        ),
    ),
    over(
        Experts,
        lora("experts, dora", &["kind = 'dora'\nr = 4\nlora_alpha = 10"]),
    ),
    over(
        Experts,
        beside(
            "experts, adapter",
            &["kind = 'adapter'\nconfig = 'double_seq_bn'\nreduction_factor = 4"],
        ),
    ),
    over(Experts, whole("experts, full", &["kind = 'full'"])),
    over(Experts, whole("experts, hft", &["kind = 'hft'\nresample = 1"])),
    over(
        Experts,
        whole("experts, upcycle", &["kind = 'upcycle'", "kind = 'full'"]),
    ),
    learning(
        beside(
            "memory",
            &["kind = 'memory'\nnum_experts = 64\ntop_k = 4\nquery_dim = 8"],
        ),
        "memory",
    ),
    learning(
        beside(
            "memory, values, every projection",
            &[
                "kind = 'memory'\nnum_experts = 64\ntop_k = 4\nquery_dim = 8\nexpert = 'value'\ntarget_modules = 'all-linear'",
            ],
        ),
        "memory",
    ),
    learning(
        beside(
            "memory, rank 2, one layer",
            &[
                "kind = 'memory'\nnum_experts = 64\ntop_k = 4\nquery_dim = 8\nexpert_rank = 2\nlayers_to_transform = [1]",
            ],
        ),
        "memory",
    ),
    over(
        Experts,
        learning(
            beside(
                "experts, memory",
                &["kind = 'memory'\nnum_experts = 64\ntop_k = 4\nquery_dim = 8\ntarget_modules = ['o_proj']"],
            ),
            "memory",
        ),
    ),
];
