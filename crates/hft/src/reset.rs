//! Half-Reset: a random half of a tuned model goes back to its pre-trained values; and plain averaging beside it.
//!
//! Reset `w = base` where the selection says frozen, else `w = tuned`. Average `w = (1 - a) tuned + a base`, in f32,
//! rounded once. At share 0 both are the tuned model bit for bit, at 1 the base.
//!
//! Source: Hui et al. 2024, arXiv:2404.18466, the pilot study. Deviation: embedding, head and last norm stay tuned unless
//! the share is 1.

use std::collections::BTreeSet;

use tch::{Kind, Tensor};
use tensor_core::ModulePath;

use crate::{Error, Granularity, HalfSelection, Halves, HftConfig, Piece, Result};

/// Which parameters a reset of this share gives back: the selection's frozen ones.
///
/// `granularity` is one that draws; `fraction` is a share from 0 to 1.
pub fn reset(pieces: &[Piece], granularity: Granularity, fraction: f64, seed: u64) -> Result<HalfSelection> {
    if !(0.0..=1.0).contains(&fraction) {
        return Err(Error::Option {
            option: "fraction",
            found: format!("{fraction} is no share from 0 to 1"),
            hint: "0.5 gives half of the matrices back",
        });
    }
    if matches!(
        granularity,
        Granularity::FixedLayers | Granularity::Pattern | Granularity::Lisa
    ) {
        return Err(Error::Option {
            option: "granularity",
            found: format!("`{}` draws no share", granularity.name()),
            hint: "use category, stratified, layer or model",
        });
    }
    let config = HftConfig {
        granularity,
        // 1 is no share of a training run; everything is chosen below.
        freeze_ratio: if fraction < 1.0 { fraction } else { 0.0 },
        seed,
        ..HftConfig::default()
    };
    let halves = Halves::new(&config, pieces)?;
    if fraction < 1.0 {
        return Ok(halves.draw(0));
    }
    let all: BTreeSet<usize> = (0..pieces.len()).collect();
    Ok(halves.selection(&all))
}

/// `(1 - share) tuned + share base` in the dtype of `tuned`: `tuned` or `base` itself at 0 and 1.
pub fn average(at: &ModulePath, tuned: &Tensor, base: &Tensor, share: f64) -> Result<Tensor> {
    if tuned.size() != base.size() {
        return Err(Error::Shape {
            at: at.clone(),
            wanted: tuned.size(),
            found: base.size(),
        });
    }
    let kind = tuned.kind();
    Ok(match share {
        0.0 => tuned.shallow_clone(),
        1.0 => base.to_kind(kind),
        share => (tuned.to_kind(Kind::Float) * (1.0 - share) + base.to_kind(Kind::Float) * share).to_kind(kind),
    })
}
