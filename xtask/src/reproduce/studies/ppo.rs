//! PPO with its ablations, and GRPO, on a lexicon's sentiment.

use super::super::results::Results;
use super::super::study::{Arm, Form, Step, Study, Verdict};
use super::{MODEL, column, lora};

/// Nats a reply that PPO shall keep to.
const TARGET: f64 = 2.0;
/// Optimiser steps: four a rollout.
const STEPS: usize = 48;

const PPO: &str = "kind = \"ppo\"\nnum_ppo_epochs = 2\nnum_mini_batches = 2\n";
const TARGETED: &str = "kl_coef = 0.1\nadaptive_kl = { target = 2.0, horizon = 256.0 }\n";

pub(super) fn study(scale: usize) -> Study {
    let base = vec![Step::evaluate("after", MODEL, None, "sentiment.toml")];
    let grpo = "kind = \"grpo\"\nnum_generations = 8\nsteps_per_generation = 2\nnum_iterations = 2\nbeta = 0.04\n";
    let arms = vec![
        Arm::new("base", base).without_chance(),
        arm("PPO", &format!("{PPO}{TARGETED}"), scale),
        arm(
            "PPO without clipping",
            &format!("{PPO}{TARGETED}cliprange = 1e9\ncliprange_value = 1e9\n"),
            scale,
        ),
        arm(
            "PPO without whitening",
            &format!("{PPO}{TARGETED}whiten_advantages = false\n"),
            scale,
        ),
        arm("PPO, nats are free", &format!("{PPO}kl_coef = 0.0\n"), scale),
        arm("GRPO", grpo, scale),
        supervised(scale),
    ];
    Study {
        name: "ppo",
        title: "PPO raises a reward at a given distance from where it began",
        claim: "Ziegler et al. 2019 (arXiv:1909.08593): PPO with a price on every nat raises the sentiment of continuations \
                and stays near the language model that it began as, the price following a target; Schulman et al. 2017 \
                (arXiv:1707.06347): clipping keeps steps small; Shao et al. 2024 (arXiv:2402.03300): GRPO does without a \
                critic. Here: sixteen tokens after the first ten words of web texts, rewarded by VADER's lexicon, 64 replies a \
                rollout, twelve rollouts, LoRA of rank 16, the price aiming at two nats a reply. Replies to held-out openings \
                are measured; the perplexity of general text is what nothing rewarded. \
                The base is SmolLM2-135M-Instruct from a Q4_1 file, dequantised.",
        arms,
        columns: vec![
            column(REWARD, "reward", Form::Digits(3)),
            column(KL, "KL, nats a reply", Form::Digits(2)),
            column(PERPLEXITY, "general perplexity", Form::Digits(2)),
            column(PEAK, "peak memory", Form::Gigabytes),
            column("train.minutes", "minutes", Form::Digits(1)),
            column("train.rollout_tokens_per_second", "tokens/s written", Form::Digits(0)),
        ],
        drawn: REWARD,
        verdicts,
    }
}

const REWARD: &str = "after.replies.reward";
const KL: &str = "after.replies.kl";
const PERPLEXITY: &str = "after.general.perplexity";
const PEAK: &str = "train.peak_memory";

fn arm(name: &str, objective: &str, scale: usize) -> Arm {
    let recipe = format!(
        "[model]\nname_or_path = \"{MODEL}\"\n\n{}\n[objective]\n{objective}max_completion_length = 16\n\
         rewards = [{{ kind = \"lexicon\", path = \"vader/vader_lexicon.txt\" }}]\n\n\
         [data]\ntrain = [{{ path = \"{{data}}/openings.train.jsonl\" }}]\nmax_length = 128\n\n\
         [train]\nmax_steps = {}\nper_device_train_batch_size = 32\nlearning_rate = 4e-4\nlr_scheduler_type = \"constant\"\n\
         save_strategy = \"no\"\nlogging_steps = 4\nreport_to = []\n",
        lora(16),
        STEPS * scale,
    );
    let steps = vec![
        Step::Train { name: "train", recipe },
        Step::evaluate("after", MODEL, Some("{out}/train"), "sentiment.toml"),
    ];
    Arm::new(name, steps)
}

/// SFT with the same adapter and as many texts a step, for the memory.
fn supervised(scale: usize) -> Arm {
    let recipe = format!(
        "[model]\nname_or_path = \"{MODEL}\"\n\n{}\n[objective]\nkind = \"sft\"\n\n\
         [data]\ntrain = [{{ path = \"{{data}}/openings.train.jsonl\", shape = \"text\", columns = {{ text = \"prompt\" }} }}]\nmax_length = 128\n\n\
         [train]\nmax_steps = {}\nper_device_train_batch_size = 32\nlearning_rate = 1e-6\nsave_strategy = \"no\"\n\
         logging_steps = 4\nreport_to = []\n",
        lora(16),
        8 * scale,
    );
    Arm::new(
        "SFT on the openings, for its memory",
        vec![Step::Train { name: "train", recipe }],
    )
    .without_chance()
}

fn verdicts(results: &Results) -> Vec<Verdict> {
    let of = |arm: &str, key: &str| results.mean(arm, key);
    let (free, kept) = ("PPO, nats are free", "PPO");
    vec![
        Verdict {
            statement: format!(
                "PPO raises the reward of held-out continuations ({:.3}; base: {:.3})",
                of(kept, REWARD),
                of("base", REWARD)
            ),
            holds: of(kept, REWARD) > of("base", REWARD) + 0.1,
        },
        Verdict {
            statement: format!(
                "at the end it lies within a half of its target of {TARGET} nats ({:.2})",
                of(kept, KL)
            ),
            holds: (of(kept, KL) / TARGET - 1.0).abs() <= 0.5,
        },
        Verdict {
            statement: format!(
                "where nats are free it goes further away ({:.2} nats against {:.2})",
                of(free, KL),
                of(kept, KL)
            ),
            holds: of(free, KL) > of(kept, KL),
        },
        Verdict {
            statement: format!(
                "without clipping it goes further too ({:.2} nats against {:.2})",
                of("PPO without clipping", KL),
                of(kept, KL)
            ),
            holds: of("PPO without clipping", KL) > of(kept, KL),
        },
        Verdict {
            statement: format!(
                "PPO takes at most 1.5 times the memory of SFT with the same adapter ({:.2} against {:.2} GB)",
                of(kept, PEAK) / 1e9,
                of("SFT on the openings, for its memory", PEAK) / 1e9
            ),
            holds: of(kept, PEAK) <= 1.5 * of("SFT on the openings, for its memory", PEAK),
        },
        Verdict {
            statement: format!(
                "GRPO raises the reward too, without a critic, in about the same memory ({:.3}; {:.2} against {:.2} GB)",
                of("GRPO", REWARD),
                of("GRPO", PEAK) / 1e9,
                of(kept, PEAK) / 1e9
            ),
            holds: of("GRPO", REWARD) > of("base", REWARD) + 0.1 && of("GRPO", PEAK) <= 1.1 * of(kept, PEAK),
        },
    ]
}
