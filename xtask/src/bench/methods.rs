//! `cargo xtask bench --methods`: what a method costs in time and memory beside plain LoRA, in turns.

use super::Turns;
use super::table::{Side, methods};
use anyhow::Result;

/// Names, and what is set in `recipes/bench.toml`.
const METHODS: [(&str, &str); 5] = [
    ("LoRA", "surgery.0.kind=\"lora\""),
    ("DoRA", "surgery.0.kind=\"dora\""),
    (
        "LoRA over NF4",
        "surgery=[{kind=\"quantize\",double_quant=true},{kind=\"lora\",r=16,lora_alpha=32,target_modules=\"all-linear\"}]",
    ),
    (
        "DoRA over NF4",
        "surgery=[{kind=\"quantize\",double_quant=true},{kind=\"dora\",r=16,lora_alpha=32,target_modules=\"all-linear\"}]",
    ),
    ("full", "surgery=[{kind=\"full\"}]"),
];

/// Every method once a round.
pub(super) fn compare(turns: &Turns, rounds: u32) -> Result<String> {
    let mut sides: Vec<Side> = METHODS
        .iter()
        .map(|&(name, _)| Side {
            name,
            turns: Vec::new(),
        })
        .collect();
    for round in 1..=rounds {
        for (side, (name, setting)) in sides.iter_mut().zip(METHODS) {
            eprintln!("round {round} of {rounds}: {name}");
            side.turns.push(turns.ours(&[setting])?);
        }
    }
    methods(&sides, turns.threads)
}
