//! The flags that say how tokens are drawn.

use anyhow::Result;
use decoder::{GenerateOptions, Sampler};

use crate::ranges;

/// How tokens are drawn.
#[derive(clap::Args, Clone, Debug)]
pub struct SamplingArgs {
    /// The most tokens of an answer
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub max_new_tokens: usize,
    /// How freely tokens are drawn: 0 always takes the likeliest one, 1 draws by the model's own probabilities, more makes
    /// unlikely ones likelier
    #[arg(long, default_value_t = 0.0, value_name = "T", value_parser = ranges::at_least(0.0), allow_negative_numbers = true)]
    pub temperature: f64,
    /// Draw only from the likeliest tokens whose probabilities together reach P; 1 for all tokens
    #[arg(long, default_value_t = 1.0, value_name = "P", value_parser = ranges::between(0.0, 1.0), allow_negative_numbers = true)]
    pub top_p: f64,
    /// Draw only from the K likeliest tokens; 0 for all tokens
    #[arg(long, default_value_t = 0, value_name = "K")]
    pub top_k: usize,
    /// Draw only from tokens that have at least P times the likeliest token's probability; 0 for all tokens
    #[arg(long, default_value_t = 0.0, value_name = "P", value_parser = ranges::between(0.0, 1.0), allow_negative_numbers = true)]
    pub min_p: f64,
    /// Make tokens that the text already contains less likely: 1 changes nothing, 1.1 to 1.3 are usual
    #[arg(long, default_value_t = 1.0, value_name = "X", value_parser = ranges::above(0.0), allow_negative_numbers = true)]
    pub repetition_penalty: f64,
    /// The seed of the random numbers: the same seed gives the same text
    #[arg(long, default_value_t = 0, value_name = "S")]
    pub seed: u64,
}

impl SamplingArgs {
    /// As the decoder's options.
    pub fn options(&self) -> Result<GenerateOptions> {
        let sampler = Sampler {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
        };
        sampler.check()?;
        Ok(GenerateOptions {
            max_new_tokens: self.max_new_tokens,
            sampler,
            ..GenerateOptions::default()
        })
    }
}
