//! Fewer experts by merging: the most used ones take in those that the router treats alike.
//!
//! The most used experts of a layer lead; every other joins the leader whose router logits are most like its own over
//! sample tokens. A member's neurons are put into its leader's order, by the assignment with the largest sum of inner
//! products over all three matrices, which leaves the member's function as it is; the merged expert is the mean, weighted
//! by usage. The router stays as it was, a group's members sharing one expert ([`Experts::with_members`]).
//!
//! Shapes: t sample tokens, d model width, e experts, f inner width.
//!
//! Source: Li et al. 2023, arXiv:2310.01334, section 3.2. Deviation: the number of leaders is the caller's for each layer,
//! where the paper shares a number over all layers.

use tch::{Kind, Tensor};
use tensor_core::{Dense, Linear, Param, Role};

use crate::assign::assign;
use crate::calibration::indices;
use crate::prune::keep_most_used;
use crate::{Calibration, Error, Expert, Experts, Result};

/// Which experts share one: for each expert of a layer the position of its group's leader among the leaders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Groups {
    /// The leaders, ascending.
    pub leaders: Vec<usize>,
    /// `[e]`: of which leader each expert is a member; leaders are of themselves.
    pub of: Vec<usize>,
}

impl Groups {
    /// `num_groups` groups of a layer's experts: the most used lead, the others join the most alike by their logits.
    pub fn choose(sample: &Calibration, num_groups: usize) -> Result<Self> {
        let leaders = keep_most_used(sample, num_groups)?;
        let logits = sample.logits.to_kind(Kind::Double);
        let centred = &logits - logits.mean_dim(&[0i64][..], true, Kind::Double);
        // An expert whose logits never change is like none.
        let norms = centred
            .square()
            .sum_dim_intlist(&[0i64][..], true, Kind::Double)
            .sqrt()
            .clamp_min(1e-12);
        let unit = centred / norms;
        let alike = unit.tr().matmul(&unit).index_select(1, &indices(&leaders));
        let nearest: Vec<i64> = alike.argmax(-1, false).try_into().expect("one leader an expert");
        let of = nearest.into_iter().enumerate().map(|(expert, nearest)| {
            let own = leaders.iter().position(|leader| *leader == expert);
            own.unwrap_or(nearest as usize)
        });
        Ok(Self {
            of: of.collect(),
            leaders,
        })
    }
}

/// The layer with one expert a group.
///
/// Errors: an expert that is no three plain matrices.
pub fn merge_experts(layer: Experts, sample: &Calibration, groups: &Groups) -> Result<Experts> {
    let (at, router, experts, shared) = layer.into_parts();
    let matrices = experts.iter().map(matrices).collect::<Result<Vec<_>>>()?;
    let merged = groups.leaders.iter().enumerate().map(|(group, &leader)| {
        let members: Vec<usize> = (0..experts.len())
            .filter(|&expert| groups.of[expert] == group)
            .collect();
        let parts = mean(&matrices, leader, &members, sample.usage());
        let like = &experts[leader];
        let kind = like.slots()[0].projection().weight().kind();
        let slot = |value: &Tensor| Linear::new(Dense::new(Param::frozen(value.to_kind(kind), Role::Base)), None);
        let [gate, up, down] = &parts;
        Expert::new([slot(gate), slot(up), slot(down)], like.names(), like.activation())
    });
    let merged: Vec<Expert> = merged.collect();
    let layer = Experts::with_members(at, router, merged, groups.of.clone())?;
    Ok(match shared {
        Some(shared) => layer.with_shared(shared),
        None => layer,
    })
}

/// Gate, up and down of an expert in f64.
fn matrices(expert: &Expert) -> Result<[Tensor; 3]> {
    if expert.slots().iter().any(|slot| slot.bias().is_some()) {
        return Err(Error::NotGated {
            found: "a bias".into(),
            hint: "experts with biases are not merged",
        });
    }
    let weight = |slot: &Linear| slot.projection().weight().to_kind(Kind::Double);
    let [gate, up, down] = expert.slots();
    Ok([weight(gate), weight(up), weight(down)])
}

/// The mean of the members, each in its leader's order of neurons, weighted by usage (evenly if none was used).
fn mean(all: &[[Tensor; 3]], leader: usize, members: &[usize], usage: &[f64]) -> [Tensor; 3] {
    let total: f64 = members.iter().map(|&member| usage[member]).sum();
    let weight = |member: usize| match total > 0.0 {
        true => usage[member] / total,
        false => 1.0 / members.len() as f64,
    };
    let mut sums = all[leader].each_ref().map(Tensor::zeros_like);
    for &member in members {
        let order = match member == leader {
            true => None,
            false => Some(aligned(&all[leader], &all[member])),
        };
        for (part, (sum, matrix)) in sums.iter_mut().zip(&all[member]).enumerate() {
            let inner = i64::from(part == 2);
            let turned = match &order {
                Some(order) => matrix.index_select(inner, order),
                None => matrix.shallow_clone(),
            };
            *sum += turned * weight(member);
        }
    }
    sums
}

/// For each neuron of the leader, the member's that is most like it: `[f]`, a permutation.
fn aligned(leader: &[Tensor; 3], member: &[Tensor; 3]) -> Tensor {
    let [gate, up, down] = leader;
    let [their_gate, their_up, their_down] = member;
    let gains = gate.matmul(&their_gate.tr()) + up.matmul(&their_up.tr()) + down.tr().matmul(their_down);
    let n = gains.size()[0] as usize;
    let gains: Vec<f64> = gains.flatten(0, -1).try_into().expect("flat");
    indices(&assign(&gains, n))
}
