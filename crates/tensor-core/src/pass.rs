//! One pass through the model: what a layer may ask about it. Layers hold no flags; the mode is this argument.

use std::cell::RefCell;

use tch::Tensor;

use crate::{Documents, FrozenCache, ModulePath};

/// Where attention keeps its past during generation: one store for all layers.
pub trait PastKeyValues {
    /// Adds this pass's keys and values (`[t, kv_heads, head_dim]`, after position encoding) of layer `layer_idx`, and
    /// attends `queries` (`[t, heads, head_dim]`) over past and present. Returns `[t, heads, head_dim]`.
    ///
    /// `window`: how many positions back a query sees, itself included; none for all.
    #[expect(clippy::too_many_arguments, reason = "an attention's own operands")]
    fn attend(
        &self,
        layer_idx: usize,
        queries: &Tensor,
        keys: &Tensor,
        values: &Tensor,
        documents: &Documents,
        scale: f64,
        window: Option<usize>,
    ) -> Tensor;
}

/// Names one stream of dropout: the same key draws the same mask, so that a recomputed block repeats it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropoutKey(pub u64);

impl DropoutKey {
    /// The stream of one module in this pass.
    #[must_use]
    pub fn at(self, site: u64) -> Self {
        // The finaliser of SplitMix64 over both words.
        let mut z = self.0.wrapping_add(site.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self(z ^ (z >> 31))
    }
}

/// Scalars that layers add to the loss on their way (a router's balance loss), already times their coefficient; and what
/// they count (tokens an expert), for whoever watches the run.
#[derive(Debug, Default)]
pub struct SideLosses {
    losses: RefCell<Vec<Tensor>>,
    tallies: RefCell<Vec<Tally>>,
}

/// What the layer of this path counted in one pass: as many numbers at each pass.
pub type Tally = (ModulePath, Vec<f64>);

impl SideLosses {
    /// Adds a scalar that the gradient shall reach.
    pub fn push(&self, loss: Tensor) {
        self.losses.borrow_mut().push(loss);
    }

    /// Notes what the layer at `at` counted.
    pub fn count(&self, at: &ModulePath, counts: Vec<f64>) {
        self.tallies.borrow_mut().push((at.clone(), counts));
    }

    /// Takes the scalars out.
    pub fn drain(&self) -> Vec<Tensor> {
        self.losses.borrow_mut().drain(..).collect()
    }

    /// Takes the counts out.
    pub fn drain_tallies(&self) -> Vec<Tally> {
        self.tallies.borrow_mut().drain(..).collect()
    }
}

/// What one pass is: train or evaluate, adapters on or off, the row's documents, the past, where side losses go.
#[derive(Clone, Copy)]
pub struct Pass<'a> {
    documents: &'a Documents,
    dropout: Option<DropoutKey>,
    training: bool,
    adapters: bool,
    past: Option<&'a dyn PastKeyValues>,
    side_losses: Option<&'a SideLosses>,
    frozen_cache: Option<&'a FrozenCache>,
}

impl<'a> Pass<'a> {
    /// A pass that measures: no dropout, adapters on.
    pub fn evaluate(documents: &'a Documents) -> Self {
        Self {
            documents,
            dropout: None,
            training: false,
            adapters: true,
            past: None,
            side_losses: None,
            frozen_cache: None,
        }
    }

    /// A pass that trains; `key` seeds this step's dropout.
    pub fn train(documents: &'a Documents, key: DropoutKey) -> Self {
        Self {
            dropout: Some(key),
            training: true,
            ..Self::evaluate(documents)
        }
    }

    /// The same pass through the base alone.
    #[must_use]
    pub fn without_adapters(self) -> Self {
        Self {
            adapters: false,
            ..self
        }
    }

    /// The same pass without what is drawn at random: dropout, and the noise of a router.
    #[must_use]
    pub fn without_dropout(self) -> Self {
        Self { dropout: None, ..self }
    }

    /// The same pass over other documents, such as the tokens of these that a head is asked about.
    #[must_use]
    pub fn over(self, documents: &'a Documents) -> Self {
        Self { documents, ..self }
    }

    /// The same pass continuing `past`.
    #[must_use]
    pub fn with_past(self, past: &'a dyn PastKeyValues) -> Self {
        Self {
            past: Some(past),
            ..self
        }
    }

    /// The same pass, handing side losses to `side_losses`.
    #[must_use]
    pub fn with_side_losses(self, side_losses: &'a SideLosses) -> Self {
        Self {
            side_losses: Some(side_losses),
            ..self
        }
    }

    /// The same pass, one of many that no parameter changes between.
    #[must_use]
    pub fn with_frozen_cache(self, cache: &'a FrozenCache) -> Self {
        Self {
            frozen_cache: Some(cache),
            ..self
        }
    }

    /// The documents of the row.
    pub fn documents(&self) -> &'a Documents {
        self.documents
    }

    /// Whether adapters take part.
    pub fn adapters_on(&self) -> bool {
        self.adapters
    }

    /// Whether this pass trains.
    pub fn is_training(&self) -> bool {
        self.training
    }

    /// The dropout stream for the module at `site` ([`crate::ModulePath::site`]); none when measuring.
    pub fn dropout(&self, site: u64) -> Option<DropoutKey> {
        self.dropout.map(|key| key.at(site))
    }

    /// The past, when generating.
    pub fn past(&self) -> Option<&'a dyn PastKeyValues> {
        self.past
    }

    /// What is kept between passes that no parameter changes between; none if one may.
    pub fn frozen_cache(&self) -> Option<&'a FrozenCache> {
        self.frozen_cache
    }

    /// Where side losses go; none when nobody listens.
    pub fn side_losses(&self) -> Option<&'a SideLosses> {
        self.side_losses
    }
}
