//! A reward model: a decoder with a scalar head, read at the last token of prompt and reply.
//!
//! Shapes: n replies of a pass.

use decoder::Decoder;
use decoder::loss::label_logits;
use tch::{Device, Tensor};
use tensor_core::{Checkpointing, CheckpointingPolicy, Documents, LanguageModel as _, ModelPass, blob};

use super::{Reward, Said};
use crate::{Error, Result};

/// Tokens of a pass; a longer reply has a pass of its own.
const MAX_TOKENS: usize = 4096;

/// A decoder that scores.
#[derive(Debug)]
pub struct ModelReward(Decoder);

impl ModelReward {
    /// Errors: a head that does not give one number.
    pub fn new(model: Decoder) -> Result<Self> {
        match model.head_kind().num_labels() {
            Some(1) => Ok(Self(model)),
            _ => Err(Error::Option {
                option: "model",
                wanted: "a reward model: a sequence classifier of one label",
                found: format!("a head for {}", model.head_kind().name()),
            }),
        }
    }

    /// The weight of its head, `[d]`: where a critic may begin.
    pub fn direction(&self) -> Tensor {
        self.0.head().projection().weight().detach().view([-1])
    }

    fn of_row(&self, replies: &[&Said]) -> Result<Vec<f64>, String> {
        let tokens: Vec<i64> = replies
            .iter()
            .flat_map(|said| said.tokens)
            .map(|&id| i64::from(id))
            .collect();
        let documents = Documents::new(&replies.iter().map(|said| said.tokens.len()).collect::<Vec<_>>());
        let plan = CheckpointingPolicy::uniform(Checkpointing::Keep, self.0.num_blocks());
        let policy = ModelPass::evaluate(&self.0, &plan);
        let tokens = Tensor::from_slice(&tokens).to_device(self.0.device());
        let scores = tch::no_grad(|| label_logits(&policy, &tokens, &documents)).map_err(|error| error.to_string())?;
        let scores = scores.view([-1]).to_device(Device::Cpu).contiguous();
        Ok(blob::to_vec::<f32>(&scores)
            .iter()
            .map(|&score| f64::from(score))
            .collect())
    }
}

impl Reward for ModelReward {
    fn name(&self) -> &'static str {
        "model"
    }

    fn scores(&self, replies: &[Said]) -> Result<Vec<Result<f64, String>>> {
        let mut scores = Vec::with_capacity(replies.len());
        let mut rest: Vec<&Said> = replies.iter().collect();
        while !rest.is_empty() {
            let mut tokens = 0;
            let fits = rest.iter().take_while(|said| {
                tokens += said.tokens.len();
                tokens <= MAX_TOKENS
            });
            let behind = rest.split_off(fits.count().max(1));
            match self.of_row(&rest) {
                Ok(found) => scores.extend(found.into_iter().map(Ok)),
                Err(why) => scores.extend(rest.iter().map(|_| Err(why.clone()))),
            }
            rest = behind;
        }
        Ok(scores)
    }
}
