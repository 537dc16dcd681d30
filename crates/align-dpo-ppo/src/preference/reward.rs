//! Bradley–Terry: the chance that one score beats another.

use tch::Tensor;

/// The loss of each pair's scores, `[n]`: `-log σ(r_w - r_l - m) + c (r_w + r_l)²`.
///
/// `margin`: `[n]`, by how much the better one is said to be better. `centring`: c, which pulls scores towards 0
/// (Eisenstein et al. 2023, arXiv:2312.09244); 0 for none.
pub fn bradley_terry(chosen: &Tensor, rejected: &Tensor, margin: Option<&Tensor>, centring: f64) -> Tensor {
    let lead = chosen - rejected;
    let lead = match margin {
        Some(margin) => lead - margin,
        None => lead,
    };
    let loss = -lead.log_sigmoid();
    if centring == 0.0 {
        return loss;
    }
    loss + (chosen + rejected).square() * centring
}
