//! Several projections of one input as one function: queries, keys and values; gate and up.
//!
//! `y_i = x W_iᵀ + s_i (x A_iᵀ) B_iᵀ`. Backward, with `v_i = s_i dy_i B_i`: `dx = Σ dy_i W_i + v_i A_i` in one product,
//! `dA_i = v_iᵀ x`, `dB_i = s_i dy_iᵀ (x A_iᵀ)`. No frozen weight is in a graph, and `B A` is never formed.
//! Shapes: t tokens, r rank, in and out widths; W `[out, in]`, A `[r, in]`, B `[out, r]`.

use tch::{Kind, Tensor};

use crate::packed::{self, LowRankTerm, PackedMatrix, Term};
use crate::{FrozenCache, FrozenMap, Linear, Param, Pass, autograd};

/// A projection as this module computes it: a frozen map, and at most one trained update beside it.
pub struct Parts<'a> {
    /// W.
    pub frozen: &'a dyn FrozenMap,
    /// The update; none where there is none, or where adapters are off.
    pub update: Option<Update<'a>>,
    /// What is done to the output, if anything.
    pub finish: Option<Finish<'a>>,
}

/// A function of a projection's output, `[t, out]` to `[t, out]`, with a backward pass of its own: `DoRA`'s magnitudes.
/// It may write into the memory that it is given.
pub type Finish<'a> = Box<dyn Fn(Tensor) -> Tensor + 'a>;

impl<'a> Parts<'a> {
    /// A frozen map alone.
    pub fn frozen(frozen: &'a dyn FrozenMap) -> Self {
        Self {
            frozen,
            update: None,
            finish: None,
        }
    }

    /// Whether there is nothing beside the frozen map.
    pub fn is_plain(&self) -> bool {
        self.update.is_none() && self.finish.is_none()
    }
}

/// A low-rank update `s · B A`.
#[derive(Clone)]
pub struct Update<'a> {
    /// A `[r, in]`.
    pub a: &'a Param,
    /// B `[out, r]`.
    pub b: &'a Param,
    /// s.
    pub scale: f64,
    /// What is kept of the factors between passes, if the pass says that they stay ([`Pass::still`]).
    pub still: Option<FrozenCache>,
}

/// Which way a map is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `x Wᵀ`.
    Forward,
    /// `y W`.
    Transposed,
}

/// `[t, in]` through each slot: `[t, out]` each, in order.
///
/// Slots that are not frozen maps with a plain update are computed one by one.
pub fn project<const N: usize>(x: &Tensor, slots: [&Linear; N], pass: &Pass) -> [Tensor; N] {
    let parts: Vec<Parts> = slots.iter().map_while(|slot| slot.projection().parts(pass)).collect();
    if parts.len() < N {
        return slots.map(|slot| slot.forward(x, pass));
    }
    let ys: [Tensor; N] = over_frozen(x, &parts).try_into().expect("one output a slot");
    let mut slots = slots.iter();
    ys.map(|y| match slots.next() {
        Some(slot) => slot.with_bias(y, pass),
        None => y,
    })
}

/// As [`project`], without biases, over maps that are known to be frozen.
pub fn over_frozen(x: &Tensor, parts: &[Parts]) -> Vec<Tensor> {
    let outputs = linear(x, parts).into_iter().zip(parts);
    outputs
        .map(|(y, part)| match &part.finish {
            Some(finish) => finish(y),
            None => y,
        })
        .collect()
}

/// The outputs before their finish, as one function of `x` and of every factor.
fn linear(x: &Tensor, parts: &[Parts]) -> Vec<Tensor> {
    let factors: Vec<Option<Factors>> = parts
        .iter()
        .map(|part| part.update.as_ref().map(|update| Factors::of(update, x.kind())))
        .collect();
    let (ys, inners): (Vec<Tensor>, Vec<Option<Tensor>>) = tch::no_grad(|| {
        parts
            .iter()
            .zip(&factors)
            .map(|(part, factors)| apply(part.frozen, factors.as_ref(), x))
            .unzip()
    });
    let mut inputs = vec![x];
    inputs.extend(
        parts
            .iter()
            .filter_map(|part| part.update.as_ref())
            .flat_map(|update| [update.a.value(), update.b.value()]),
    );
    if !autograd::wants(&inputs) {
        return ys;
    }
    let frozen: Vec<_> = parts.iter().map(|part| part.frozen.share()).collect();
    let (saved, wants_dx) = (x.shallow_clone(), x.requires_grad());
    autograd::attach_many(&inputs, ys, move |dys| {
        let used: Vec<usize> = (0..dys.len()).filter(|&slot| dys[slot].is_some()).collect();
        let terms: Vec<Back> = used
            .iter()
            .filter_map(|&slot| {
                Some(Back {
                    dy: dys[slot].as_ref()?,
                    frozen: &*frozen[slot],
                    factors: factors[slot].as_ref(),
                })
            })
            .collect();
        let (dx, vs) = input_gradient(&terms, wants_dx);
        let mut by_slot: Vec<[Option<Tensor>; 2]> = factors.iter().map(|_| [None, None]).collect();
        for ((&slot, term), v) in used.iter().zip(&terms).zip(vs) {
            if let (Some(inner), Some(v)) = (&inners[slot], v) {
                by_slot[slot] = [
                    Some(packed::outer(&v, &saved)),
                    Some(packed::outer(inner, term.dy).tr().contiguous()),
                ];
            }
        }
        let of_factors = by_slot
            .into_iter()
            .zip(&factors)
            .filter(|(_, factors)| factors.is_some());
        std::iter::once(dx)
            .chain(of_factors.flat_map(|(pair, _)| pair))
            .collect()
    })
}

/// Both factors in the compute dtype, packed too where they are kept.
struct Factors {
    a: Tensor,
    b: Tensor,
    scale: f64,
    packed: Option<[PackedMatrix; 2]>,
}

impl Factors {
    fn of(update: &Update, kind: Kind) -> Self {
        let cast = || tch::no_grad(|| [update.a, update.b].map(|factor| factor.cast(kind).detach()));
        let ([a, b], packed) = match &update.still {
            Some(still) => still.factors([update.a.value(), update.b.value()], kind, cast),
            None => (cast(), None),
        };
        Self {
            a,
            b,
            scale: update.scale,
            packed,
        }
    }
}

/// `x Wᵀ + s (x Aᵀ) Bᵀ`, and `s x Aᵀ`.
fn apply(frozen: &dyn FrozenMap, factors: Option<&Factors>, x: &Tensor) -> (Tensor, Option<Tensor>) {
    if let Some(matrix) = frozen.packed(Way::Forward).filter(|_| x.kind() == Kind::BFloat16) {
        let low_rank = factors.map(|f| LowRankTerm {
            inner: &f.a,
            outer: &f.b,
            scale: f.scale,
            packed: f.packed.as_ref(),
        });
        let term = Term {
            x,
            matrix: &matrix,
            low_rank,
        };
        let (y, mut inner) = packed::product(&[term], None);
        return (y, inner.pop().flatten());
    }
    let y = frozen.apply(x);
    let Some(factors) = factors else { return (y, None) };
    let inner = x.matmul(&factors.a.tr()) * factors.scale;
    let mut y = y;
    (y.addmm_(&inner, &factors.b.tr()), Some(inner))
}

/// One output's gradient with what its slot saved.
struct Back<'a> {
    dy: &'a Tensor,
    frozen: &'a dyn FrozenMap,
    factors: Option<&'a Factors>,
}

/// `Σ dy W + v A`, if wanted, and each `v = s dy B`.
fn input_gradient(terms: &[Back], wants_dx: bool) -> (Option<Tensor>, Vec<Option<Tensor>>) {
    if !wants_dx {
        return (
            None,
            terms
                .iter()
                .map(|term| term.factors.map(|f| term.dy.matmul(&f.b) * f.scale))
                .collect(),
        );
    }
    let turned: Vec<Option<(Tensor, Tensor)>> = terms
        .iter()
        .map(|term| term.factors.map(|f| (f.b.tr(), f.a.tr())))
        .collect();
    let matrices: Option<Vec<PackedMatrix>> = terms
        .iter()
        .map(|term| {
            term.frozen
                .packed(Way::Transposed)
                .filter(|_| term.dy.kind() == Kind::BFloat16)
        })
        .collect();
    if let Some(matrices) = matrices.filter(|matrices| !matrices.is_empty()) {
        let packed = terms
            .iter()
            .zip(&turned)
            .zip(&matrices)
            .map(|((term, turned), matrix)| {
                let low_rank = turned
                    .as_ref()
                    .zip(term.factors)
                    .map(|((inner, outer), f)| LowRankTerm {
                        inner,
                        outer,
                        scale: f.scale,
                        packed: None,
                    });
                Term {
                    x: term.dy,
                    matrix,
                    low_rank,
                }
            });
        let (dx, vs) = packed::product(&packed.collect::<Vec<_>>(), None);
        return (Some(dx), vs);
    }
    let mut dx = None;
    let mut vs = Vec::with_capacity(terms.len());
    for term in terms {
        let mut sum = term.frozen.apply_transposed(term.dy, dx);
        let v = term.factors.map(|f| term.dy.matmul(&f.b) * f.scale);
        dx = Some(match (&v, term.factors) {
            (Some(v), Some(f)) => sum.addmm_(v, &f.a),
            _ => sum,
        });
        vs.push(v);
    }
    (dx, vs)
}
