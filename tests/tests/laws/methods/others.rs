//! Bottleneck adapters, training of the weights themselves, zeros that stay, experts, memories and IA3.

use super::super::bases::Stock::{Experts, Pruned};
use super::{Method, beside, learning, lora, over, whole};

pub(super) const METHODS: &[Method] = &[
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
    lora("ia3", &["kind = 'ia3'"]),
    lora(
        "ia3, everything",
        &[
            "kind = 'ia3'\ntarget_modules = 'all-linear'\nfeedforward_modules = '.*\\.(o_proj|up_proj|down_proj)'\ninit_ia3_weights = false",
        ],
    ),
    lora("ia3, head", &["kind = 'ia3'\ntarget_modules = ['k_proj', 'lm_head']"]),
    learning(lora("ia3, classifier", &["kind = 'ia3'"]), "classify"),
    over(
        Pruned,
        lora("ia3, keep zeros", &["kind = 'ia3'", "kind = 'keep_zeros'"]),
    ),
];
