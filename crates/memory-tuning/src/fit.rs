//! Training the selection, once and briefly, before anything is memorised: in closed form.
//!
//! `W_q` becomes the d largest principal directions of the inputs, each scaled to variance 1, and μ their mean, so that
//! queries fill their space alike. Sub-keys have one length and random directions; against such queries each is the
//! nearest of about as many tokens, so experts are used evenly and few facts share one, without a balancing loss.
//!
//! Deviation: the paper trains its selection for an epoch of general training. With experts that begin at zero no loss
//! reaches it; and trained for the information that a choice tells of its token, sub-keys die instead.
//! Shapes: t tokens, d query width.

use tch::{Kind, Tensor};

use crate::Selection;

impl Selection {
    /// Fits the queries to the inputs `x` (`[t, in]` f32); how many directions they have.
    ///
    /// Where `x` has fewer than d of them, the remaining queries stay as they are.
    pub fn fit(&mut self, x: &Tensor) -> usize {
        let (d, inputs) = (self.query.size()[0], self.query.size()[1]);
        let most = d.min(inputs).min(x.size()[0] - 1);
        if most < 1 {
            return 0;
        }
        tch::no_grad(|| {
            let mean = x.mean_dim([0].as_slice(), false, Kind::Float);
            let centred = x - &mean;
            let covariance = centred.tr().matmul(&centred) / x.size()[0] as f64;
            // Ascending: the largest stand last. In f64: the smallest that are kept lie far below the largest.
            let (values, vectors) = covariance.to_kind(Kind::Double).linalg_eigh("L");
            let values = values.narrow(0, inputs - most, most);
            let kept = values
                .gt_tensor(&(values.max() * 1e-9))
                .sum(Kind::Int64)
                .int64_value(&[]);
            let values = values.narrow(0, most - kept, kept);
            let vectors = vectors.narrow(1, inputs - kept, kept);
            let directions = (vectors / values.sqrt()).tr().flip([0]).to_kind(Kind::Float);
            self.query.narrow(0, 0, kept).copy_(&directions);
            self.offset = self.query.matmul(&mean);
            kept as usize
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryConfig;
    use tch::Device;

    /// A large mean and one direction that drowns the others, as language models have them.
    fn inputs() -> Tensor {
        tch::manual_seed(3);
        let mut spread = vec![1.0f32; 24];
        spread[5] = 40.0;
        Tensor::randn([4000, 24], (Kind::Float, Device::Cpu)) * Tensor::from_slice(&spread) + 7.0
    }

    fn selection() -> Selection {
        let config = MemoryConfig {
            num_experts: 64,
            query_dim: 8,
            top_k: 1,
            ..MemoryConfig::default()
        };
        Selection::random(&config, 24, 1)
    }

    #[test]
    fn fitted_queries_are_white() {
        let (mut selection, x) = (selection(), inputs());
        assert_eq!(selection.fit(&x), 8);
        let queries = selection.queries(&x);
        let covariance = queries.tr().matmul(&queries) / 4000.0;
        golden::assert_close(
            "white",
            &covariance,
            &Tensor::eye(8, (Kind::Float, Device::Cpu)),
            1e-3,
            1e-3,
        );
        let mean = queries.mean_dim([0].as_slice(), false, Kind::Float);
        assert!(mean.abs().max().double_value(&[]) < 1e-3);
    }

    #[test]
    fn fitting_spreads_the_tokens_over_the_experts() {
        let x = inputs();
        let used = |selection: &Selection| {
            let counts = selection
                .choose(&x)
                .experts
                .flatten(0, -1)
                .bincount(None::<&Tensor>, 64);
            (
                counts.gt(0).sum(Kind::Int64).int64_value(&[]),
                counts.max().int64_value(&[]),
            )
        };
        let mut selection = selection();
        let (before, busiest) = used(&selection);
        selection.fit(&x);
        let (after, busiest_after) = used(&selection);
        // 4000 tokens over 64 experts would be 62 each.
        assert!(before < 40 && after == 64, "{before} experts before, {after} after");
        assert!(
            busiest > 500 && busiest_after < 250,
            "busiest: {busiest} before, {busiest_after} after"
        );
    }

    #[test]
    fn few_inputs_give_few_directions() {
        let mut selection = selection();
        assert_eq!(selection.fit(&inputs().narrow(0, 0, 4)), 3);
        assert_eq!(selection.fit(&inputs().narrow(0, 0, 1)), 0);
    }
}
