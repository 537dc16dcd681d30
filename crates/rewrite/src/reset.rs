//! A random share of a tuned model back to its base's values (Half-Reset), or the mean of both.

use std::path::Path;

use anyhow::{Result, bail};
use checkpoint::{Existing, SaveOptions, TensorInfo};
use hft::{HalfSelection, Piece};
use models::Source;
use tch::{Kind, Tensor};

/// What becomes of each tensor.
pub enum Choice {
    /// What does not train in this selection gets the base's values again.
    Reset(HalfSelection),
    /// Every tensor becomes the mean of both, the base with this weight.
    Average(f64),
}

/// Two models that become one.
pub struct Mixing<'a> {
    /// The tuned model.
    pub tuned: &'a Source,
    /// The model that it was tuned from.
    pub base: &'a Source,
    /// What becomes of each tensor.
    pub choice: Choice,
}

impl Mixing<'_> {
    /// Writes the model, whose tensors are `pieces`, into `folder`, one tensor in memory at a time; in `dtype`, or each
    /// tensor in its own.
    pub fn write(&self, folder: &Path, pieces: &[Piece], dtype: Option<Kind>) -> Result<()> {
        let (tuned, events) = (self.tuned, self.tuned.events());
        let (mut infos, mut kept) = (Vec::new(), Vec::new());
        for piece in pieces {
            let kind = tuned.dir().info(piece.path.as_str())?.kind;
            if !self.check(piece)? {
                kept.push(piece.path.to_string());
            }
            infos.push(TensorInfo {
                name: piece.path.to_string(),
                shape: piece.shape.clone(),
                kind: dtype.unwrap_or(kind),
            });
        }
        if !kept.is_empty() {
            events.note(|| format!("not in `{}`, so left as tuned: {}", self.base.name(), kept.join(", ")));
        }
        let work = events.begin("tensors", infos.len());
        let make = |info: &TensorInfo| {
            work.advance(1);
            let made = self.tensor(&info.name).map_err(|error| format!("{error:#}"))?;
            Ok(made.to_kind(info.kind).contiguous())
        };
        let options = SaveOptions {
            dtype,
            ..tuned.options(Existing::Refuse, "reset")
        };
        Ok(checkpoint::save_model(
            folder,
            tuned.dir().config(),
            &infos,
            make,
            &options,
        )?)
    }

    /// How much of a tensor is the base's.
    fn share(&self, piece: &str) -> f64 {
        match &self.choice {
            Choice::Average(share) => *share,
            Choice::Reset(selection) if selection.trains(&piece.into()) => 0.0,
            Choice::Reset(_) => 1.0,
        }
    }

    /// The base's name of a tensor: a tied output layer is its embedding.
    fn in_base<'n>(&self, name: &'n str) -> Option<&'n str> {
        let dir = self.base.dir();
        let tied = name == "lm_head.weight" && dir.config().tie_word_embeddings;
        let name = if tied { "model.embed_tokens.weight" } else { name };
        dir.contains(name).then_some(name)
    }

    /// Whether the base has this tensor; an error if it should have it, or has it in another shape.
    fn check(&self, piece: &Piece) -> Result<bool> {
        let Some(name) = self.in_base(piece.path.as_str()) else {
            // A new head has no past.
            if piece.role == tensor_core::Role::Head {
                return Ok(false);
            }
            bail!(
                "`{}`: wanted a tensor `{}`, found none of that name\nhint: `--base` is the model that `--model` was tuned from",
                self.base.name(),
                piece.path
            );
        };
        let found = self.base.dir().info(name)?.shape;
        if found != piece.shape {
            let (at, wanted) = (piece.path.clone(), piece.shape.clone());
            return Err(hft::Error::Shape { at, wanted, found }.into());
        }
        Ok(true)
    }

    fn tensor(&self, name: &str) -> Result<Tensor> {
        let tuned = self.tuned.dir().tensor(name)?;
        let (share, base) = (self.share(name), self.in_base(name));
        match base {
            Some(base) if share > 0.0 => {
                let base = self.base.dir().tensor(base)?;
                Ok(hft::average(&name.into(), &tuned, &base, share)?)
            }
            _ => Ok(tuned),
        }
    }
}
