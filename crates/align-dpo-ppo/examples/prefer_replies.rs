//! A `tch::nn` model learns by DPO which of two replies is the better one; a frozen copy of it is the reference.
//!
//! `cargo run -p finetune-align-dpo-ppo --example prefer_replies`

use std::error::Error;

use align_dpo_ppo::preference::{LossType, Pairs, Side, Strength};
use align_dpo_ppo::tch::nn::{self, Module, OptimizerConfig};
use align_dpo_ppo::tch::{self, Device, Kind, Tensor};

const VOCABULARY: i64 = 32;

/// A model of the next token given the last one.
#[derive(Debug)]
struct Bigram {
    table: nn::Embedding,
    head: nn::Linear,
}

impl Bigram {
    fn new(at: &nn::Path) -> Self {
        Self {
            table: nn::embedding(at / "table", VOCABULARY, 16, nn::EmbeddingConfig::default()),
            head: nn::linear(at / "head", 16, VOCABULARY, nn::LinearConfig::default()),
        }
    }

    /// `[n, t]` tokens to `[n]`: the log-probability of every token after the first, summed, in nats.
    fn log_prob(&self, tokens: &Tensor) -> Tensor {
        let length = tokens.size()[1];
        let (inputs, next) = (tokens.narrow(1, 0, length - 1), tokens.narrow(1, 1, length - 1));
        let log_probs = self
            .head
            .forward(&self.table.forward(&inputs))
            .log_softmax(-1, Kind::Float);
        let of_next = log_probs.gather(2, &next.unsqueeze(-1), false).squeeze_dim(-1);
        of_next.sum_dim_intlist([1].as_slice(), false, Kind::Float)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    tch::manual_seed(0);
    let store = nn::VarStore::new(Device::Cpu);
    let policy = Bigram::new(&store.root());
    let mut frozen = nn::VarStore::new(Device::Cpu);
    let reference = Bigram::new(&frozen.root());
    frozen.copy(&store)?;
    frozen.freeze();

    // The better replies are of even tokens, the worse ones of odd tokens.
    let drawn = Tensor::randint(VOCABULARY / 2, [64, 9], (Kind::Int64, Device::Cpu)) * 2;
    let (chosen, rejected) = (drawn.shallow_clone(), drawn + 1);
    let length = Tensor::full([64], 8, (Kind::Float, Device::Cpu));
    let side = |tokens: &Tensor| {
        Side::new(policy.log_prob(tokens), length.shallow_clone()).with_reference(&reference.log_prob(tokens))
    };
    let pairs = || Pairs::new(side(&chosen), side(&rejected));
    let loss = || {
        LossType::Sigmoid
            .of_pairs(&pairs(), &Strength::default())
            .mean(Kind::Float)
    };
    let before = loss().double_value(&[]);
    assert!(
        (before - 2f64.ln()).abs() < 1e-5,
        "the policy is its reference yet: ln 2"
    );

    let mut optimizer = nn::Adam::default().build(&store, 1e-2)?;
    for _ in 0..100 {
        optimizer.backward_step(&loss());
    }
    let after = loss().double_value(&[]);
    let margin = pairs().margin();
    let won = margin.gt(0.0).to_kind(Kind::Float).mean(Kind::Float).double_value(&[]);
    println!(
        "loss {before:.4} before, {after:.4} after; {:.0} % of the better replies gained",
        100.0 * won
    );
    assert!(after < before / 2.0 && won > 0.95, "what is preferred is learnt");
    Ok(())
}
