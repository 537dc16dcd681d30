//! The rules, in the order in which they are asked: order of surgeries, what trains, how weights are held, objectives.

use checkpoint::Family;
use lora::Init;

use super::modules::{pruned_whole, updated, updates_table};
use super::{Combination, Rule};
use crate::experts::RouterOptions;
use crate::methods::Trains;
use crate::recipe::{ObjectiveConfig, Surgery};

/// Everything that cannot work, and why.
pub static RULES: &[Rule] = &[
    Rule {
        name: "quantize-later",
        combination: "`quantize` behind another surgery",
        why: "`quantize` is done while the model is read, and once",
        hint: "make it the first `[[surgery]]`",
        meets: |c| c.surgery_where(|surgery, before| packs(surgery) && !before.is_empty()),
    },
    Rule {
        name: "quantize-packed",
        combination: "`quantize` over a model that is in 4 bits already",
        why: "the model is in 4 bits already",
        hint: "remove `kind = \"quantize\"`, or take the dense model",
        meets: |c| c.surgery_where(|surgery, _| packs(surgery) && c.is_packed()),
    },
    Rule {
        name: "keep-zeros-not-last",
        combination: "`keep_zeros` as the first surgery, or before another one",
        why: "what trains must be there before it, and nothing comes over it",
        hint: "make `keep_zeros` the last `[[surgery]]`",
        meets: |c| {
            let last = c.surgery.len().saturating_sub(1);
            c.surgery_where(|surgery, before| surgery.keeps_zeros() && (before.is_empty() || before.len() != last))
        },
    },
    Rule {
        name: "prune-under-adapter",
        combination: "`prune` in a recipe with {adapters}",
        why: "an adapter's file does not hold its base, so a base that is pruned here would be lost",
        hint: "prune it first, by `finetune prune`, and train the adapter over what that writes",
        meets: |c| c.surgery_where(|surgery, _| is_prune(surgery) && c.has(Surgery::is_adapter)),
    },
    Rule {
        name: "upcycle-under-adapter",
        combination: "`upcycle` in a recipe with {adapters}",
        why: "an adapter is kept beside its base, and a model upcycled in the run is no file",
        hint: "write it with `finetune upcycle` first, and train the adapter over that",
        meets: |c| c.surgery_where(|surgery, _| is_upcycle(surgery) && c.has(Surgery::is_adapter)),
    },
    Rule {
        name: "packed-weights-train",
        combination: "`full`, `hft`, `prune` or `upcycle` over `quantize`, or over a model in 4 bits",
        why: "packed weights do not train",
        hint: "train an adapter over them: `kind = \"lora\"`",
        meets: |c| {
            let changes_weights = |surgery: &Surgery| surgery.trains() == Trains::Weights || surgery.reshapes();
            c.surgery_where(|surgery, _| changes_weights(surgery) && (c.quantizes() || c.is_packed()))
        },
    },
    Rule {
        name: "reshape-after-training",
        combination: "`prune` or `upcycle` behind a surgery that trains",
        why: "it changes what the model is, found a surgery before it that trains",
        hint: "put it first",
        meets: |c| c.surgery_where(|surgery, before| surgery.reshapes() && before.iter().any(trains)),
    },
    Rule {
        name: "hft-with-full",
        combination: "`hft` with `full`",
        why: "`kind = \"hft\"` and `kind = \"full\"` each decide what trains",
        hint: "leave one of the two out; `freeze_embeddings` and `freeze_head` of `hft` decide about both ends",
        meets: |c| {
            let has_full = c.has(|surgery| surgery.kind() == "full");
            c.surgery_where(|surgery, _| surgery.kind() == "hft" && has_full)
        },
    },
    Rule {
        name: "adapter-after-training",
        combination: "{adapters} behind a surgery that trains",
        why: "an adapter's file holds one adapter over a frozen base, found a surgery before it that trains",
        hint: "keep one of the two; other ranks go into `rank_pattern`, other widths into `reduction_factor`, modules that train whole into `modules_to_save`",
        meets: |c| c.surgery_where(|surgery, before| surgery.is_adapter() && before.iter().any(trains)),
    },
    Rule {
        name: "weights-after-adapter",
        combination: "`full` or `hft` behind an adapter, and `hft` twice",
        why: "an adapter's file does not hold the base, and `hft` decides alone what trains: found a surgery before it that trains",
        hint: "modules that train whole beside an adapter go into `modules_to_save`",
        meets: |c| {
            c.surgery_where(|surgery, before| match surgery.kind() {
                "full" => before.iter().any(Surgery::is_adapter),
                "hft" => before.iter().any(trains),
                _ => false,
            })
        },
    },
    Rule {
        name: "keep-zeros-alone",
        combination: "`keep_zeros` where nothing trains before it",
        why: "nothing trains before it",
        hint: "put `kind = \"keep_zeros\"` behind the surgery that trains",
        meets: |c| c.surgery_where(|surgery, before| surgery.keeps_zeros() && !before.iter().any(trains)),
    },
    Rule {
        name: "nothing-trains",
        combination: "`quantize`, `prune` or `upcycle` without a surgery that trains",
        why: "no surgery of this recipe makes anything train",
        hint: "add `[[surgery]]` with `kind = \"lora\"` for an adapter, or `kind = \"full\"` for all parameters",
        meets: |c| (!c.has(trains)).then(|| "surgery".to_owned()),
    },
    Rule {
        name: "keep-zeros-over-dora",
        combination: "`keep_zeros` over `dora`",
        why: "DoRA's magnitudes scale whole directions, which a mask would change",
        hint: "use `kind = \"lora\"`",
        meets: |c| c.surgery_where(|surgery, before| surgery.keeps_zeros() && before.iter().any(is_dora)),
    },
    Rule {
        name: "keep-zeros-over-frozen-base",
        combination: "`keep_zeros` over {beside}",
        why: "what trains stands beside the base and leaves it as it is, so its zeros stay without it",
        hint: "remove `kind = \"keep_zeros\"`",
        meets: |c| {
            let leaves_base = |surgery: &Surgery| surgery.trains() == Trains::Beside;
            c.surgery_where(|surgery, before| surgery.keeps_zeros() && before.iter().any(leaves_base))
        },
    },
    Rule {
        name: "keep-zeros-with-dropout",
        combination: "`keep_zeros` over `lora` with `lora_dropout` above 0",
        why: "an update with dropout cannot be masked: each token would meet another matrix",
        hint: "set `lora_dropout = 0`",
        meets: |c| {
            let drops = |surgery: &Surgery| surgery.trains() == Trains::Update && surgery.dropout() > 0.0;
            c.surgery_where(|surgery, before| surgery.keeps_zeros() && before.iter().any(drops))
        },
    },
    Rule {
        name: "keep-zeros-over-whole",
        combination: "`keep_zeros` over `lora` with a pruned matrix in `modules_to_save`",
        why: "a matrix that `modules_to_save` trains whole has no mask, so its zeros would not stay",
        hint: "leave it out of `modules_to_save`: an update of low rank stays under the mask",
        meets: |c| {
            c.has(|surgery| surgery.keeps_zeros())
                .then(|| pruned_whole(c))
                .flatten()
        },
    },
    Rule {
        name: "loftq-without-quantize",
        combination: "`init_lora_weights = \"loftq\"` without `quantize`",
        why: "`loftq` begins with what quantising has lost, and this recipe quantises nothing",
        hint: "put `kind = \"quantize\"` before it, over a model that is not in 4 bits yet",
        meets: |c| {
            let idx = c
                .surgery
                .iter()
                .position(|surgery| begins_as(surgery, |init| init == Init::Loftq))?;
            (!c.quantizes()).then(|| format!("surgery.{idx}.init_lora_weights"))
        },
    },
    Rule {
        name: "loftq-over-dense",
        combination: "`init_lora_weights = \"loftq\"` on a module that `quantize` leaves dense",
        why: "`loftq` begins with what quantising has lost, and one of the modules that it updates is not quantised",
        hint: "leave the modules of `skip_modules` (`lm_head`) out of `target_modules`, or let `quantize` pack them: `skip_modules = []`",
        meets: |c| {
            let is_loftq = |config: &lora::LoraConfig| config.init_lora_weights == Init::Loftq;
            updated(c, false, "init_lora_weights", is_loftq)
        },
    },
    Rule {
        name: "taken-from-packed",
        combination: "`init_lora_weights = \"pissa\"` or `\"olora\"` over packed weights",
        why: "`pissa` and `olora` take the update out of the weight, and packed weights stay as they are",
        hint: "use `init_lora_weights = \"loftq\"` over `quantize`, or `true`",
        meets: |c| {
            let takes = |config: &lora::LoraConfig| config.init_lora_weights.takes_from_base();
            updated(c, true, "init_lora_weights", takes)
        },
    },
    Rule {
        name: "dora-over-table",
        combination: "`dora` on `embed_tokens`",
        why: "DoRA does not decompose the token table `model.embed_tokens`",
        hint: "use `kind = \"lora\"` for tables, or train it whole: `modules_to_save = [\"embed_tokens\"]`",
        meets: |c| {
            let over_table = |surgery: &Surgery| is_dora(surgery) && surgery.low_rank().is_some_and(updates_table);
            let idx = c.surgery.iter().position(over_table)?;
            Some(format!("surgery.{idx}.target_modules"))
        },
    },
    Rule {
        name: "upcycle-family",
        combination: "`upcycle` over a model with biases or experts, or of another family than Llama or Mistral",
        why: "a Llama or Mistral without biases can be given experts, as a Mixtral; this model cannot",
        hint: "take such a model",
        meets: |c| {
            let config = c.base?.config();
            let has_biases = config.qkv_bias || config.o_bias || config.mlp_bias;
            let can = matches!(config.family, Family::Llama | Family::Mistral) && !has_biases;
            c.surgery_where(|surgery, _| is_upcycle(surgery) && !can)
        },
    },
    Rule {
        name: "router-without-experts",
        combination: "`[router]` for a model without experts",
        why: "this model has no experts",
        hint: "remove the section, or add `kind = \"upcycle\"`",
        meets: |c| {
            let has_experts = c.base?.config().experts.is_some() || c.has(is_upcycle);
            (c.router.is_some() && !has_experts).then(|| "router".to_owned())
        },
    },
    Rule {
        name: "router-chooses-upcycled",
        combination: "`[router]` with `gating` or `skip_below`, and `upcycle`",
        why: "`gating` and `skip_below` wanted a model with experts, found one that `kind = \"upcycle\"` gives them",
        hint: "write the mixture with `finetune upcycle`, and train that",
        meets: |c| {
            let chooses = c.router.is_some_and(RouterOptions::chooses);
            (chooses && c.has(is_upcycle)).then(|| "router".to_owned())
        },
    },
    Rule {
        name: "memory-objective",
        combination: "`memory` with another objective than `memory`",
        why: "`kind = \"memory\"` among the surgeries is trained by `objective.kind = \"memory\"` alone",
        hint: "set `objective.kind = \"memory\"`",
        meets: |c| (c.has(is_memory) && !learns_facts(c)).then(|| "objective.kind".to_owned()),
    },
    Rule {
        name: "objective-memory",
        combination: "`objective.kind = \"memory\"` without `memory`, or with another method beside it",
        why: "`objective.kind = \"memory\"` wants one `[[surgery]]` that trains, of `kind = \"memory\"`: everything else stays as it is",
        hint: "make `kind = \"memory\"` the only surgery besides `quantize`",
        meets: |c| {
            let others = c.has(|surgery| !is_memory(surgery) && !packs(surgery));
            (learns_facts(c) && (others || !c.has(is_memory))).then(|| "surgery".to_owned())
        },
    },
];

fn packs(surgery: &Surgery) -> bool {
    surgery.packs().is_some()
}

fn is_prune(surgery: &Surgery) -> bool {
    surgery.kind() == "prune"
}

fn is_upcycle(surgery: &Surgery) -> bool {
    surgery.kind() == "upcycle"
}

fn is_dora(surgery: &Surgery) -> bool {
    surgery.kind() == "dora"
}

fn is_memory(surgery: &Surgery) -> bool {
    surgery.kind() == "memory"
}

/// Whether it makes something train.
fn trains(surgery: &Surgery) -> bool {
    surgery.trains() != Trains::Nothing
}

fn begins_as(surgery: &Surgery, is_meant: impl Fn(Init) -> bool) -> bool {
    surgery
        .low_rank()
        .is_some_and(|config| is_meant(config.init_lora_weights))
}

fn learns_facts(c: &Combination) -> bool {
    matches!(c.objective, ObjectiveConfig::Memory(_))
}
