//! The updates of one module, and which rows each of them is added to.
//!
//! Rows that are read differently are one product all the same: with the factors of the adapters that occur stacked,
//! `y += ((x Aᵀ) ∘ M) Bᵀ`, where `M[t, k]` is weight times scale of column k's adapter in the mix of token t, 0 where
//! it takes no part. Shapes: t tokens, R the ranks' sum of the adapters that occur, in and out widths.

use tch::{Device, Kind, Tensor};
use tensor_core::{AdapterRouting, Documents, ModulePath, Param, Pass};

use crate::LowRank;

/// One module's updates, by the adapters' indices.
#[derive(Debug)]
pub(super) struct Updates {
    /// None for an adapter that leaves this module alone.
    updates: Vec<Option<(String, LowRank)>>,
    default: AdapterRouting,
}

/// What a pass adds to the base.
pub(super) enum Chosen<'a> {
    /// Nothing.
    Nothing,
    /// One update to every row, times a weight.
    One(&'a LowRank, f64),
    /// Several updates, or different ones by row.
    Several(Stacked),
}

/// Stacked factors of the updates that occur: A `[R, in]`, B `[out, R]` f32, and M `[t, R]` f32.
pub(super) struct Stacked {
    pub(super) a: Tensor,
    pub(super) b: Tensor,
    pub(super) strengths: Tensor,
}

impl Updates {
    pub(super) fn new(updates: Vec<Option<(String, LowRank)>>, default: AdapterRouting) -> Self {
        Self { updates, default }
    }

    /// What this pass adds to `rows` rows.
    ///
    /// # Panics
    /// If documents are read differently and are not over as many tokens.
    pub(super) fn chosen(&self, pass: &Pass, rows: i64) -> Chosen<'_> {
        match self.simple(pass) {
            Some(chosen) => chosen,
            None => Chosen::Several(self.stacked(pass.documents(), rows)),
        }
    }

    /// What this pass adds, if it is at most one update and the same for every row.
    pub(super) fn simple(&self, pass: &Pass) -> Option<Chosen<'_>> {
        if !pass.adapters_on() {
            return Some(Chosen::Nothing);
        }
        let mut all: Vec<Vec<(usize, f64)>> = self.mixes(pass.documents()).map(|mix| self.here(mix)).collect();
        // AdapterRoutings may differ by what this module does not have.
        all.dedup();
        match all.as_slice() {
            [shares] => match shares.as_slice() {
                [] => Some(Chosen::Nothing),
                [(idx, weight)] => self.update(*idx).map(|update| Chosen::One(update, *weight)),
                _ => None,
            },
            _ => None,
        }
    }

    /// `Σ w s B A` of the default mix, `[out, in]` f32; none of nothing.
    pub(super) fn default_update(&self) -> Option<Tensor> {
        let shares = self.here(&self.default);
        let updates = shares
            .iter()
            .filter_map(|(idx, weight)| Some(self.update(*idx)?.update() * *weight));
        updates.reduce(|sum, update| sum + update)
    }

    /// Both factors of each adapter, under its name.
    pub(super) fn visit(&self, at: &ModulePath, kind: &str, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        for (name, update) in self.updates.iter().flatten() {
            let suffix = if kind.is_empty() { ".weight" } else { "" };
            visitor(&at.join(format!("lora_{kind}A.{name}{suffix}")), update.a());
            visitor(&at.join(format!("lora_{kind}B.{name}{suffix}")), update.b());
        }
    }

    fn mixes<'a>(&'a self, documents: &'a Documents) -> impl Iterator<Item = &'a AdapterRouting> {
        let given = documents.routings().map_or(&[][..], |mixes| mixes.distinct());
        let default = documents.routings().is_none().then_some(&self.default);
        given.iter().chain(default)
    }

    fn update(&self, idx: usize) -> Option<&LowRank> {
        self.updates.get(idx)?.as_ref().map(|(_, update)| update)
    }

    /// What of a mix has an update here.
    fn here(&self, mix: &AdapterRouting) -> Vec<(usize, f64)> {
        let shares = mix.shares().iter().copied();
        shares.filter(|(idx, _)| self.update(*idx).is_some()).collect()
    }

    fn stacked(&self, documents: &Documents, rows: i64) -> Stacked {
        let mixes: Vec<&AdapterRouting> = self.mixes(documents).collect();
        let mut occurring: Vec<usize> = mixes
            .iter()
            .flat_map(|mix| self.here(mix))
            .map(|(idx, _)| idx)
            .collect();
        occurring.sort_unstable();
        occurring.dedup();
        let updates: Vec<&LowRank> = occurring.iter().filter_map(|&idx| self.update(idx)).collect();
        let factors = |side: fn(&LowRank) -> &Param, dim| {
            Tensor::cat(
                &updates.iter().map(|update| side(update).value()).collect::<Vec<_>>(),
                dim,
            )
        };
        let columns: Vec<(usize, f64)> = occurring
            .iter()
            .zip(&updates)
            .flat_map(|(&idx, update)| {
                std::iter::repeat_n((idx, update.scale()), update.a().value().size()[0] as usize)
            })
            .collect();
        let strengths_of = |mix: &AdapterRouting| -> Vec<f32> {
            let weight = |idx| {
                mix.shares()
                    .iter()
                    .filter(|share| share.0 == idx)
                    .map(|share| share.1)
                    .sum::<f64>()
            };
            columns
                .iter()
                .map(|(idx, scale)| (scale * weight(*idx)) as f32)
                .collect()
        };
        let each: Vec<f32> = mixes.iter().flat_map(|mix| strengths_of(mix)).collect();
        let by_mix = Tensor::from_slice(&each).view([mixes.len() as i64, columns.len() as i64]);
        let a = factors(LowRank::a, 0);
        let strengths = match mixes.len() {
            1 => by_mix.to_device(a.device()),
            _ => by_mix
                .index_select(0, &mix_of_tokens(documents, rows))
                .to_device(a.device()),
        };
        Stacked {
            a,
            b: factors(LowRank::b, 1),
            strengths,
        }
    }
}

/// `[t]` i64: which of the distinct mixes each token is read with.
fn mix_of_tokens(documents: &Documents, rows: i64) -> Tensor {
    let tokens = documents.num_tokens() as i64;
    assert_eq!(
        rows, tokens,
        "documents that are read differently are over the rows (left) that come"
    );
    let of = documents.routings().map_or(&[][..], |mixes| mixes.of_documents());
    let of: Vec<i64> = of.iter().map(|&mix| mix as i64).collect();
    Tensor::from_slice(&of).index_select(0, &documents.ids(Device::Cpu))
}

impl Stacked {
    /// `((inner) ∘ M) Bᵀ`, from `x Aᵀ` `[t, R]` to `[t, out]`, in the dtype of `inner`.
    pub(super) fn outer(&self, inner: &Tensor) -> Tensor {
        let kind = inner.kind();
        (inner.to_kind(Kind::Float) * &self.strengths)
            .to_kind(kind)
            .matmul(&self.b.to_kind(kind).tr())
    }
}
