//! Times replies drawn from a model with a LoRA adapter over it: `rollout MODEL BATCH PROMPT REPLY`, a line of JSON a turn.
//!
//! `benches/peft/generate.py` runs it in turns with Transformers.

use std::time::Instant;

use anyhow::Context as _;
use checkpoint::ModelDir;
use decoder::{Decoder, EndTokens, GenerateOptions, Sampler};
use lora::{LoraConfig, Wrapping};
use tch::{Device, Kind};

const TURNS: usize = 3;

fn main() -> anyhow::Result<()> {
    tensor_core::device::keep_memory();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, batch, prompt, reply] = arguments.as_slice() else {
        anyhow::bail!("wanted MODEL BATCH PROMPT REPLY, found {arguments:?}");
    };
    let (batch, prompt, reply): (u32, u32, usize) = (batch.parse()?, prompt.parse()?, reply.parse()?);
    let dir = ModelDir::open(model.as_ref())?;
    let base = Decoder::load(&dir, Device::Cpu, Kind::BFloat16).with_context(|| model.clone())?;
    let config = LoraConfig {
        r: 16,
        lora_alpha: 32.0,
        ..LoraConfig::default()
    };
    let wrapping = Wrapping::choose(config, &base.projection_paths(), &[])?;
    let policy = base.map_projections(&mut |at, projection| wrapping.projection(at, projection))?;
    let prompts: Vec<Vec<u32>> = (0..batch)
        .map(|row| {
            (0..prompt)
                .map(|at| 1000 + (row * 7919 + at * 104_729) % 40_000)
                .collect()
        })
        .collect();
    for turn in 0..TURNS {
        let options = GenerateOptions {
            max_new_tokens: reply,
            end_tokens: EndTokens::Ignore,
            sampler: Sampler {
                temperature: 1.0,
                seed: turn as u64,
                ..Sampler::default()
            },
            ..GenerateOptions::default()
        };
        let begin = Instant::now();
        let replies = policy.generate(&prompts, &options, &mut |_, _| ())?;
        let seconds = begin.elapsed().as_secs_f64();
        let tokens: usize = replies.iter().map(|reply| reply.tokens.len()).sum();
        println!("{{\"seconds\":{seconds},\"tokens\":{tokens}}}");
    }
    Ok(())
}
