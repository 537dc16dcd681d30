//! What the chosen experts add, and the way back: to the input, to the shares, and to the rows that may move.
//!
//! `y_t = c Σ_e a_te Σ_r v_er (u_er · x_t)`, or `c Σ_e a_te v_e` for values. With `p = u·x` and `g = v·dy`:
//! `da = c Σ_r p g`, `dx = c Σ a g u`, `dv = c a p dy`, `du = c a g x`. Experts that were never touched add nothing and
//! are passed over. Shapes: t tokens, k chosen experts, in and out widths.

use tensor_core::parallel::{self, Shared};

use crate::lanes::{add_scaled, dot};
use crate::{ExpertKind, Gradients, Table};

/// A token's share in an expert that has a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Use {
    /// Which token.
    pub(crate) token: usize,
    /// Which of its k experts.
    pub(crate) rank: usize,
    /// Where the expert's row lies.
    pub(crate) slot: usize,
    /// a.
    pub(crate) share: f32,
    /// Whether the row may move.
    pub(crate) moves: bool,
}

/// `[t, out]`: what the experts add. `uses` are sorted by token.
pub(crate) fn forward(table: &Table, uses: &[Use], x: &[f32], scale: f32) -> Vec<f32> {
    let shape = table.shape();
    let mut y = vec![0.0f32; x.len() / shape.inputs * shape.outputs];
    let tokens = by_token(uses);
    let shared = Shared::new(&mut y);
    parallel::for_each_range(tokens.len(), 8, |range| {
        for uses in &tokens[range] {
            let token = uses[0].token;
            // SAFETY: each token is met once.
            #[allow(unsafe_code)]
            let y = unsafe { shared.part(token * shape.outputs..(token + 1) * shape.outputs) };
            let x = &x[token * shape.inputs..(token + 1) * shape.inputs];
            for used in *uses {
                let (u, v) = table.factors(used.slot);
                for r in 0..shape.rank {
                    let inner = match shape.kind {
                        ExpertKind::LowRank => dot(&u[r * shape.inputs..(r + 1) * shape.inputs], x),
                        ExpertKind::Value => 1.0,
                    };
                    let v = &v[r * shape.outputs..(r + 1) * shape.outputs];
                    add_scaled(y, scale * used.share * inner, v);
                }
            }
        }
    });
    y
}

/// Gradients of the input `[t, in]` (empty if `wants_dx` is false) and of the shares `[t, k]`; those of the rows are
/// added to `gradients`.
pub(crate) fn backward(
    table: &Table,
    uses: &[Use],
    (x, dy): (&[f32], &[f32]),
    (scale, top_k, wants_dx): (f32, usize, bool),
    gradients: &mut Gradients,
) -> (Vec<f32>, Vec<f32>) {
    let shape = table.shape();
    let (inputs, outputs) = (shape.inputs, shape.outputs);
    let num_tokens = x.len() / inputs;
    let mut dx = vec![0.0f32; if wants_dx { x.len() } else { 0 }];
    let mut d_shares = vec![0.0f32; num_tokens * top_k];
    for used in uses {
        let x = &x[used.token * inputs..(used.token + 1) * inputs];
        let dy = &dy[used.token * outputs..(used.token + 1) * outputs];
        let (u, v) = table.factors(used.slot);
        let weight = scale * used.share;
        for r in 0..shape.rank {
            let g = dot(&v[r * outputs..(r + 1) * outputs], dy);
            let u = match shape.kind {
                ExpertKind::LowRank => Some(&u[r * inputs..(r + 1) * inputs]),
                ExpertKind::Value => None,
            };
            let p = u.map_or(1.0, |u| dot(u, x));
            d_shares[used.token * top_k + used.rank] += scale * p * g;
            if let (Some(u), true) = (u, wants_dx) {
                let dx = &mut dx[used.token * inputs..(used.token + 1) * inputs];
                add_scaled(dx, weight * g, u);
            }
            if !used.moves {
                continue;
            }
            let (du, dv) = gradients.row(used.slot).split_at_mut(shape.first_width());
            add_scaled(&mut dv[r * outputs..(r + 1) * outputs], weight * p, dy);
            if u.is_some() {
                add_scaled(&mut du[r * inputs..(r + 1) * inputs], weight * g, x);
            }
        }
    }
    (dx, d_shares)
}

/// The uses of each token that has any.
fn by_token(uses: &[Use]) -> Vec<&[Use]> {
    uses.chunk_by(|a, b| a.token == b.token).collect()
}
