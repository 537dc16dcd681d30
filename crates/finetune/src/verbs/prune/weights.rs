//! The options of pruning weights one by one.

use prune::{Pattern, PruneConfig, Scope};

/// What is left of each matrix, and by what rule.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct WeightArgs {
    /// magnitude, wanda, sparsegpt: the share of the weights that becomes zero
    #[arg(long, value_name = "F", conflicts_with = "pattern")]
    sparsity: Option<f64>,
    /// Instead: so many zeros in every so many consecutive inputs, such as `2:4`
    #[arg(long, value_name = "N:M")]
    pattern: Option<Pattern>,
    /// magnitude: within what sizes are compared: matrix (the default), row or global
    #[arg(long, value_name = "SCOPE", value_parser = scope)]
    per: Option<Scope>,
    /// sparsegpt: what is added to the inputs' products, as a share of their mean [default: 0.01]
    #[arg(long, value_name = "F")]
    damping: Option<f64>,
    /// sparsegpt: columns whose mask is chosen at once [default: 128]
    #[arg(long, value_name = "N")]
    block_size: Option<usize>,
    /// Names of the modules that are pruned [default: all projections of the blocks]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    target_modules: Vec<String>,
    /// Names of modules that are not
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
