//! LoRA and DoRA over dense models, each way to begin, to scale and to choose.

use super::{Method, learning, lora};

pub(super) const METHODS: &[Method] = &[
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
];
