//! What flows through a model while it is pruned: rows of text, held as the stream between two blocks.
//!
//! Shapes: t tokens of a row, d model width.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tch::Tensor;
use tensor_core::{Documents, LanguageModel, ModulePath, OnInput, Pass};

use crate::{Gram, InputNorms};

/// Rows of calibration text on their way through the blocks.
///
/// Held are the streams, `[t, d]` each, and nothing of the blocks behind or ahead.
pub struct Calibration {
    rows: Vec<(Tensor, Documents)>,
}

impl Calibration {
    /// Embeds rows of tokens (`[t]` i64, on the model's device) with their documents.
    pub fn new(model: &dyn LanguageModel, rows: impl IntoIterator<Item = (Tensor, Documents)>) -> Self {
        let embed = |(tokens, documents): (Tensor, Documents)| {
            let stream = tch::no_grad(|| model.embed(&tokens, &Pass::evaluate(&documents)));
            (stream, documents)
        };
        Self {
            rows: rows.into_iter().map(embed).collect(),
        }
    }

    /// Tokens of all rows.
    pub fn num_tokens(&self) -> usize {
        self.rows.iter().map(|(_, documents)| documents.num_tokens()).sum()
    }

    /// Runs block `idx` over all rows for whoever observes it; the streams stay where they are.
    pub fn show(&self, model: &dyn LanguageModel, idx: usize) {
        for (stream, documents) in &self.rows {
            drop(tch::no_grad(|| model.block(idx, stream, &Pass::evaluate(documents))));
        }
    }

    /// Takes the streams through block `idx`.
    pub fn advance(&mut self, model: &dyn LanguageModel, idx: usize) {
        for (stream, documents) in &mut self.rows {
            *stream = tch::no_grad(|| model.block(idx, stream, &Pass::evaluate(documents)));
        }
    }

    /// Each row's stream and documents.
    pub fn rows(&self) -> impl Iterator<Item = (&Tensor, &Documents)> {
        self.rows.iter().map(|(stream, documents)| (stream, documents))
    }
}

impl fmt::Debug for Calibration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Calibration({} rows, {} tokens)", self.rows.len(), self.num_tokens())
    }
}

/// What is gathered of an input.
#[derive(Debug)]
pub(crate) enum Statistics {
    Norms(InputNorms),
    Gram(Gram),
}

impl Statistics {
    fn add(&mut self, x: &Tensor) {
        match self {
            Self::Norms(norms) => norms.add(x),
            Self::Gram(gram) => gram.add(x),
        }
    }
}

/// One input of a block and the projections that read it.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) statistics: Statistics,
    pub(crate) readers: Vec<ModulePath>,
    /// Held, so that no other tensor can come to lie in its place.
    last: Option<Tensor>,
}

/// Gathers what the projections of one block are given. Queries, keys and values read one tensor: it is counted once.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    sites: Arc<Mutex<Vec<Site>>>,
    make: fn(i64) -> Statistics,
}

impl Recorder {
    pub(crate) fn new(make: fn(i64) -> Statistics) -> Self {
        Self {
            sites: Arc::default(),
            make,
        }
    }

    /// A listener for the projection at `at`.
    pub(crate) fn listener(&self, at: &ModulePath) -> OnInput {
        let (recorder, at) = (self.clone(), at.clone());
        Box::new(move |x| {
            recorder.see(&at, x);
            x.shallow_clone()
        })
    }

    fn see(&self, at: &ModulePath, x: &Tensor) {
        // Experts that no token chose are given nothing; empty tensors all lie in one place.
        if x.numel() == 0 {
            return;
        }
        let mut sites = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(site) = sites.iter_mut().find(|site| site.readers.contains(at)) {
            if site.readers.first() == Some(at) {
                site.statistics.add(x);
                site.last = Some(x.shallow_clone());
            }
            return;
        }
        let is_same = |site: &&mut Site| {
            let same = |last: &Tensor| last.data_ptr() == x.data_ptr() && last.size() == x.size();
            site.last.as_ref().is_some_and(same)
        };
        if let Some(site) = sites.iter_mut().find(is_same) {
            site.readers.push(at.clone());
            return;
        }
        let mut statistics = (self.make)(x.size().last().copied().unwrap_or(0));
        statistics.add(x);
        sites.push(Site {
            statistics,
            readers: vec![at.clone()],
            last: Some(x.shallow_clone()),
        });
    }

    /// What was gathered.
    pub(crate) fn finish(self) -> Vec<Site> {
        let mut sites = std::mem::take(&mut *self.sites.lock().unwrap_or_else(PoisonError::into_inner));
        for site in &mut sites {
            site.last = None;
        }
        sites
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn an_input_that_three_read_is_counted_once_a_row() {
        let recorder = Recorder::new(|width| Statistics::Norms(InputNorms::new(width)));
        let paths: Vec<ModulePath> = ["q", "k", "o"].map(ModulePath::from).to_vec();
        let listeners: Vec<OnInput> = paths.iter().map(|at| recorder.listener(at)).collect();
        for row in 1..=2 {
            let shared = Tensor::full([row, 2], 1.0, (Kind::Float, Device::Cpu));
            let own = Tensor::full([row, 2], 2.0, (Kind::Float, Device::Cpu));
            for (listener, x) in listeners.iter().zip([&shared, &shared, &own]) {
                drop(listener(x));
            }
            drop(listeners[0](&Tensor::zeros([0, 2], (Kind::Float, Device::Cpu))));
        }
        drop(listeners);
        let sites = recorder.finish();
        let readers: Vec<usize> = sites.iter().map(|site| site.readers.len()).collect();
        assert_eq!(readers, [2, 1]);
        // Three tokens of ones, three of twos: √3 and √12.
        for (site, wanted) in sites.iter().zip([3f64.sqrt(), 12f64.sqrt()]) {
            let Statistics::Norms(norms) = &site.statistics else {
                panic!("norms")
            };
            assert!((norms.norms().double_value(&[0]) - wanted).abs() < 1e-12);
        }
    }
}
