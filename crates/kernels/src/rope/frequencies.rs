//! Inverse frequencies of rotary embeddings, and what stretches them to longer contexts.
//!
//! Plain: `θ^(-2i/r)` for pair i of r rotated numbers. All are computed as in Transformers 5
//! (`modeling_rope_utils.py`): powers in f32, corrections in f64.
//!
//! Sources: linear: Chen et al. 2023, arXiv:2306.15595; Llama 3.1: its model code; `YaRN`: Peng et al. 2023,
//! arXiv:2309.00071. Deviation: none.

use std::f64::consts::TAU;

/// How frequencies are stretched: a configuration's `rope_parameters` (`rope_scaling` in older ones).
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// All divided by one factor.
    Linear {
        /// By how much the context is longer.
        factor: f64,
    },
    /// Low frequencies divided, high ones kept, a ramp between.
    Llama3 {
        /// By how much the context is longer.
        factor: f64,
        /// Wavelengths above the original context over this are divided by `factor`.
        low_freq_factor: f64,
        /// Wavelengths below the original context over this are kept.
        high_freq_factor: f64,
        /// Tokens of the pre-training context.
        original_max_position_embeddings: usize,
    },
    /// `YaRN`: a ramp over pairs by how often they turn in the original context, and warmer attention.
    Yarn {
        /// By how much the context is longer.
        factor: f64,
        /// Tokens of the pre-training context.
        original_max_position_embeddings: usize,
        /// Pairs that turn more often than this are kept (32 by default).
        beta_fast: f64,
        /// Pairs that turn less often than this are divided by `factor` (1 by default).
        beta_slow: f64,
        /// Weight of the attention factor's logarithm, with `mscale_all_dim` (`DeepSeek`).
        mscale: Option<f64>,
        /// Weight of its divisor's logarithm.
        mscale_all_dim: Option<f64>,
        /// The attention factor itself, where the configuration gives it.
        attention_factor: Option<f64>,
        /// Whether the ramp's ends are rounded to whole pairs (so by default).
        truncate: bool,
    },
}

/// What a [`super::RopeTable`] is made from.
#[derive(Clone, Debug, PartialEq)]
pub struct Frequencies {
    /// `[r/2]` radians a position.
    pub inverse: Vec<f32>,
    /// What cosines and sines are multiplied by.
    pub attention_factor: f64,
}

/// The frequencies of heads `head_dim` wide, of which the first `partial_rotary_factor` part is rotated.
pub fn frequencies(theta: f64, head_dim: usize, partial_rotary_factor: f64, scaling: &RopeScaling) -> Frequencies {
    let dim = (head_dim as f64 * partial_rotary_factor) as usize;
    let powers: Vec<f32> = (0..dim)
        .step_by(2)
        .map(|i| theta.powf(f64::from(i as f32 / dim as f32)) as f32)
        .collect();
    let plain = || powers.iter().map(|power| 1.0 / power);
    let (inverse, attention_factor) = match *scaling {
        RopeScaling::Default => (plain().collect(), 1.0),
        RopeScaling::Linear { factor } => (plain().map(|f| f / factor as f32).collect(), 1.0),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => {
            let context = original_max_position_embeddings as f64;
            let stretch = |f: f32| llama3(f, factor, [low_freq_factor, high_freq_factor], context);
            (plain().map(stretch).collect(), 1.0)
        }
        RopeScaling::Yarn {
            factor,
            original_max_position_embeddings,
            beta_fast,
            beta_slow,
            mscale,
            mscale_all_dim,
            attention_factor,
            truncate,
        } => {
            let context = original_max_position_embeddings as f64;
            let pair = |turns: f64| dim as f64 * (context / (turns * TAU)).ln() / (2.0 * theta.ln());
            let (low, high) = (pair(beta_fast), pair(beta_slow));
            let (low, high) = if truncate {
                (low.floor(), high.ceil())
            } else {
                (low, high)
            };
            let (low, high) = (low.max(0.0), high.min(dim as f64 - 1.0));
            let inverse = yarn(&powers, factor as f32, low, high);
            let warmth = attention_factor.unwrap_or_else(|| yarn_attention_factor(factor, mscale, mscale_all_dim));
            (inverse, warmth)
        }
    };
    Frequencies {
        inverse,
        attention_factor,
    }
}

fn llama3(inverse: f32, factor: f64, [low, high]: [f64; 2], context: f64) -> f32 {
    let wavelength = TAU / f64::from(inverse);
    if wavelength < context / high {
        inverse
    } else if wavelength > context / low {
        inverse / factor as f32
    } else {
        let smooth = ((context / wavelength - low) / (high - low)) as f32;
        (1.0 - smooth) * inverse / factor as f32 + smooth * inverse
    }
}

/// Between pairs `low` and `high`, from kept to divided by `factor`.
fn yarn(powers: &[f32], factor: f32, low: f64, high: f64) -> Vec<f32> {
    // Equal ends would divide by zero.
    let high = if (low - high).abs() < f64::EPSILON {
        high + 0.001
    } else {
        high
    };
    powers
        .iter()
        .enumerate()
        .map(|(i, power)| {
            let ramp = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
            let kept = 1.0 - ramp;
            1.0 / (factor * power) * (1.0 - kept) + 1.0 / power * kept
        })
        .collect()
}

fn yarn_attention_factor(factor: f64, mscale: Option<f64>, mscale_all_dim: Option<f64>) -> f64 {
    let warmth = |weight: f64| {
        if factor <= 1.0 {
            1.0
        } else {
            0.1 * weight * factor.ln() + 1.0
        }
    };
    match (mscale, mscale_all_dim) {
        // As in Transformers, a weight of zero counts as none.
        (Some(mscale), Some(all)) if mscale != 0.0 && all != 0.0 => warmth(mscale) / warmth(all),
        _ => warmth(1.0),
    }
}
