//! The options of pruning weights one by one.

use prune::{Pattern, PruneConfig, Scope};

use crate::ranges;

/// What is left of each matrix, and by what rule.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct WeightArgs {
    /// magnitude, wanda, sparsegpt: the share of the weights that becomes zero
    #[arg(long, value_name = "F", conflicts_with = "pattern", allow_negative_numbers = true)]
    sparsity: Option<f64>,
    /// Instead of --sparsity: N zeros in every M consecutive inputs, such as `2:4`
    #[arg(long, value_name = "N:M")]
    pattern: Option<Pattern>,
    /// magnitude: compare weights within one matrix (the default), one row, or all matrices (global)
    #[arg(long, value_name = "SCOPE", value_parser = scope)]
    per: Option<Scope>,
    /// sparsegpt: damping added to the diagonal of the inputs' second-moment matrix, as a share of its mean
    /// [default: 0.01]
    #[arg(long, value_name = "F", value_parser = ranges::at_least(0.0), allow_negative_numbers = true)]
    damping: Option<f64>,
    /// sparsegpt: how many columns are masked together before the rest is adjusted [default: 128]
    #[arg(long, value_name = "N", value_parser = ranges::count(1))]
    block_size: Option<usize>,
    /// Names of the modules that are pruned [default: all projections of the blocks]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    target_modules: Vec<String>,
    /// Names of modules that are left out
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    exclude_modules: Vec<String>,
}

impl WeightArgs {
    /// The first option that is given, if any is.
    pub(super) fn given(&self) -> Option<&'static str> {
        let given = [
            ("sparsity", self.sparsity.is_some()),
            ("pattern", self.pattern.is_some()),
            ("per", self.per.is_some()),
            ("damping", self.damping.is_some()),
            ("block-size", self.block_size.is_some()),
            ("target-modules", !self.target_modules.is_empty()),
            ("exclude-modules", !self.exclude_modules.is_empty()),
        ];
        given.into_iter().find(|(_, is_given)| *is_given).map(|(name, _)| name)
    }

    /// As a recipe would say it.
    pub(super) fn config(&self, method: prune::Method) -> PruneConfig {
        PruneConfig {
            method,
            sparsity: self.sparsity,
            pattern: self.pattern,
            per: self.per,
            damping: self.damping,
            block_size: self.block_size,
            target_modules: self.target_modules.clone(),
            exclude_modules: self.exclude_modules.clone(),
        }
    }
}

fn scope(word: &str) -> Result<Scope, String> {
    serde_json::from_value(word.into()).map_err(|error: serde_json::Error| error.to_string())
}
