//! A mixture of experts as the feed-forward of a block.
//!
//! `y = Σ_i w_i E_i(x)` over the experts that the router chose, and, where the family has one, a shared expert that
//! every token goes to: `+ σ(x w_sᵀ) E_s(x)`. Shapes: t tokens, d model width, e experts, k chosen experts.
//!
//! Tokens are sorted by expert: each expert computes all of its tokens at once, with no capacity and no padding.
//! [`Experts::forward_naively`] is the plain twin.
//!
//! Sources: Jiang et al. 2024, arXiv:2401.04088; Gale et al. 2022, arXiv:2211.15841 (nothing dropped); Qwen 2's mixtures.

use tch::{Kind, Tensor};
use tensor_core::{ModulePath, Param, Parameters, Pass, ProjectionSurgeon, Result as CoreResult, Sublayer};

use crate::balance::{Balance, load_balancing_loss, z_loss};
use crate::{Dispatch, Error, Expert, Names, Result, Router, Routing};

/// Experts and what chooses among them.
#[derive(Debug)]
#[expect(clippy::struct_field_names, reason = "a layer of experts holds experts")]
pub struct Experts {
    at: ModulePath,
    router: Router,
    experts: Vec<Expert>,
    shared: Option<Shared>,
    balance: Balance,
    /// For each row of the router the expert that answers for it; none where each row has its own.
    members: Option<Vec<usize>>,
}

/// An expert that every token goes to, and its gate `[1, d]`.
#[derive(Debug)]
pub struct Shared {
    /// The expert.
    pub expert: Expert,
    /// What it is multiplied by, before the sigmoid: `[1, d]`.
    pub gate: Param,
}

impl Experts {
    /// A layer at the path `at` of a router `[e, d]` and e experts.
    pub fn new(at: ModulePath, router: Router, experts: Vec<Expert>) -> Result<Self> {
        let (wanted, width) = router
            .weight()
            .value()
            .size2()
            .expect("a router's matrix has two dimensions");
        if experts.len() as i64 != wanted {
            return Err(Error::Shape {
                part: format!("the router of {} experts", experts.len()),
                wanted: vec![experts.len() as i64, width],
                found: vec![wanted, width],
            });
        }
        Ok(Self {
            at,
            router,
            experts,
            shared: None,
            balance: Balance::default(),
            members: None,
        })
    }

    /// A layer in which several rows of the router share an expert: `members` names one for each row.
    ///
    /// Errors: not one member a row, or one that there is not.
    pub fn with_members(at: ModulePath, router: Router, experts: Vec<Expert>, members: Vec<usize>) -> Result<Self> {
        let rows = router.num_experts();
        if members.len() != rows || members.iter().any(|&expert| expert >= experts.len()) {
            return Err(Error::Option {
                option: "members",
                wanted: format!("{rows} numbers below {}", experts.len()),
                found: format!("{members:?}"),
                hint: "each row of the router has one of the experts",
            });
        }
        Ok(Self {
            at,
            router,
            experts,
            shared: None,
            balance: Balance::default(),
            members: Some(members),
        })
    }

    /// The same layer with an expert of its own for each row of the router, as checkpoints have it; copies share memory.
    #[must_use]
    pub fn spread(self) -> Self {
        match self.members {
            None => self,
            Some(members) => Self {
                experts: members.iter().map(|&expert| self.experts[expert].copy()).collect(),
                members: None,
                ..self
            },
        }
    }

    /// The layer with these of its experts alone, in this order: the router's other rows are gone.
    ///
    /// Errors: none of them, one that there is not, or fewer than a token is given.
    pub fn keeping(self, kept: &[usize]) -> Result<Self> {
        let router = self.router.keeping(kept)?;
        let layer = self.spread();
        let experts = kept.iter().map(|&expert| layer.experts[expert].copy()).collect();
        Ok(Self {
            router,
            experts,
            ..layer
        })
    }

    /// With an expert that every token goes to.
    #[must_use]
    pub fn with_shared(self, shared: Shared) -> Self {
        Self {
            shared: Some(shared),
            ..self
        }
    }

    /// With a bias `[e]` that is added to the router's probabilities for choosing.
    ///
    /// Errors: a bias of another length.
    pub fn with_router_bias(self, bias: Param) -> Result<Self> {
        let (wanted, found) = (vec![self.experts.len() as i64], bias.value().size());
        if wanted != found {
            let part = "the router's bias".to_owned();
            return Err(Error::Shape { part, wanted, found });
        }
        Ok(Self {
            router: self.router.with_bias(bias),
            ..self
        })
    }

    /// With losses that even out the experts' load while training.
    #[must_use]
    pub fn with_balance(self, balance: Balance) -> Self {
        Self { balance, ..self }
    }

    /// What chooses.
    pub fn router(&self) -> &Router {
        &self.router
    }

    /// The experts, in the router's order.
    pub fn experts(&self) -> &[Expert] {
        &self.experts
    }

    /// Its path: where its parts are found.
    pub fn path(&self) -> &ModulePath {
        &self.at
    }

    /// The parts, to build another layer of.
    pub fn into_parts(self) -> (ModulePath, Router, Vec<Expert>, Option<Shared>) {
        (self.at, self.router, self.experts, self.shared)
    }

    /// Where the tokens `x` (`[t, d]`) go.
    pub fn route(&self, x: &Tensor, pass: &Pass) -> Routing {
        self.router.route(x, pass, self.at.join("gate").site())
    }

    /// What [`Sublayer::forward`] computes, expert by expert over all tokens, the others' weights being 0.
    pub fn forward_naively(&self, x: &Tensor, pass: &Pass) -> Tensor {
        let routing = self.route(x, pass);
        let mut y = self.shared_part(x, pass);
        let answering = self.answering(&routing.chosen);
        for (idx, expert) in self.experts.iter().enumerate() {
            let is_chosen = answering.eq(idx as i64).to_kind(Kind::Float);
            let weight = (&routing.weights * is_chosen).sum_dim_intlist(-1, true, Kind::Float);
            let weighed = expert.forward(x, pass) * weight.to_kind(x.kind());
            // Not in place: what the shared expert left is in its graph.
            y = &y + weighed;
        }
        y
    }

    /// The routed part for a given routing: `[t, d]`.
    pub fn routed(&self, x: &Tensor, routing: &Routing, pass: &Pass) -> Tensor {
        let dispatch = Dispatch::of(&self.answering(&routing.chosen), self.experts.len());
        let tokens = dispatch.tokens();
        let sorted = x.index_select(0, tokens);
        let mut from = 0;
        let mut parts = Vec::with_capacity(self.experts.len());
        for (expert, &count) in self.experts.iter().zip(dispatch.counts()) {
            // An expert without tokens still gets its gradient of zeros while training, as its momentum goes on.
            if count > 0 || pass.is_training() {
                let rows = sorted.narrow(0, from, count);
                let y = match pass.documents().routings() {
                    Some(_) if count > 0 => {
                        let documents = pass.documents().at(&tokens.narrow(0, from, count));
                        expert.forward(&rows, &pass.over(&documents))
                    }
                    _ => expert.forward(&rows, pass),
                };
                parts.push(y);
            }
            from += count;
        }
        dispatch.combine(&Tensor::cat(&parts, 0), &routing.weights)
    }

    /// The expert that answers for a row of the router.
    pub(crate) fn expert_of(&self, row: usize) -> &Expert {
        &self.experts[self.members.as_ref().map_or(row, |members| members[row])]
    }

    /// The experts that answer for these rows of the router, `[t, k]`.
    fn answering(&self, chosen: &Tensor) -> Tensor {
        let Some(members) = &self.members else {
            return chosen.shallow_clone();
        };
        // One that was skipped stays behind all others.
        let of: Vec<i64> = members
            .iter()
            .chain([&self.experts.len()])
            .map(|&expert| expert as i64)
            .collect();
        let of = Tensor::from_slice(&of).to_device(chosen.device());
        of.index_select(0, &chosen.flatten(0, -1)).view_as(chosen)
    }

    fn shared_part(&self, x: &Tensor, pass: &Pass) -> Tensor {
        match &self.shared {
            None => x.zeros_like(),
            Some(Shared { expert, gate }) => {
                let gate = x.matmul(&gate.cast(x.kind()).tr()).sigmoid();
                expert.forward(x, pass) * gate
            }
        }
    }

    fn tell(&self, routing: &Routing, pass: &Pass) {
        let Some(side) = pass.side_losses() else { return };
        let counts = routing.counts(self.router.num_experts());
        let Balance { aux, z } = self.balance;
        if aux > 0.0 {
            side.push(load_balancing_loss(&routing.probabilities, &counts) * aux);
        }
        if z > 0.0 {
            side.push(z_loss(&routing.logits) * z);
        }
        let counts: Vec<f32> = Vec::try_from(counts).expect("one count an expert");
        side.count(&self.at, counts.into_iter().map(f64::from).collect());
    }
}

impl Sublayer for Experts {
    fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor {
        let routing = self.route(x, pass);
        self.tell(&routing, pass);
        let y = self.routed(x, &routing, pass);
        match &self.shared {
            None => y,
            Some(_) => y + self.shared_part(x, pass),
        }
    }

    fn map_projections(
        self: Box<Self>,
        at: &ModulePath,
        surgeon: &mut ProjectionSurgeon,
    ) -> CoreResult<Box<dyn Sublayer>> {
        let experts = self.experts.into_iter().enumerate();
        let experts = experts
            .map(|(idx, expert)| expert.map_projections(&at.join("experts").join(idx), surgeon))
            .collect::<CoreResult<Vec<_>>>()?;
        let shared = match self.shared {
            None => None,
            Some(Shared { expert, gate }) => Some(Shared {
                expert: expert.map_projections(&at.join("shared_expert"), surgeon)?,
                gate,
            }),
        };
        Ok(Box::new(Self {
            experts,
            shared,
            ..*self
        }))
    }
}

impl Parameters for Experts {
    fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        self.router.visit(&at.join("gate"), visitor);
        for (idx, expert) in self.experts.iter().enumerate() {
            expert.visit(&at.join("experts").join(idx), visitor);
        }
        if let Some(Shared { expert, gate }) = &self.shared {
            expert.visit(&at.join("shared_expert"), visitor);
            visitor(&at.join("shared_expert_gate.weight"), gate);
        }
    }
}

impl Names {
    /// What a block's path is joined with: `block_sparse_moe` or `mlp`.
    pub fn sublayer(self) -> &'static str {
        match self {
            Self::Mixtral => "block_sparse_moe",
            Self::Qwen => "mlp",
        }
    }
}
