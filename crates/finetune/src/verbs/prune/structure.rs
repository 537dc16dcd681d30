//! Whole parts taken out: the sizes that the smaller model shall have, as flags.

use anyhow::{Result, ensure};
use checkpoint::ModelConfig;
use rewrite::prune::{By, Sizes, Structure};

use super::Method;
use crate::failure::usage;

/// The sizes that the smaller model shall have, under their names in `config.json`.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub(super) struct StructureArgs {
    /// block-influence, angular: blocks that stay
    #[arg(long, value_name = "N")]
    num_hidden_layers: Option<usize>,
    /// taylor, activation: channels of the feed-forward that stay in each block
    #[arg(long, value_name = "N")]
    intermediate_size: Option<usize>,
    /// taylor, activation: key-value heads that stay in each block, with their query heads
    #[arg(long, value_name = "N")]
    num_key_value_heads: Option<usize>,
}

impl StructureArgs {
    /// Whether any is given.
    pub(super) fn is_given(&self) -> bool {
        self.num_hidden_layers.is_some() || self.intermediate_size.is_some() || self.num_key_value_heads.is_some()
    }

    /// For a method that takes parts out.
    pub(super) fn structure(self, method: Method, by: By, config: &ModelConfig) -> Result<Structure> {
        let (blocks, units) = (
            self.num_hidden_layers,
            self.intermediate_size.is_some() || self.num_key_value_heads.is_some(),
        );
        let by_blocks = matches!(method, Method::BlockInfluence | Method::Angular);
        match (by_blocks, blocks, units) {
            (true, Some(_), false) | (false, None, true) => {}
            (true, None, _) => {
                return Err(usage(format!(
                    "`--method {method}` takes out blocks\nhint: say how many stay, by `--num-hidden-layers`"
                )));
            }
            (true, Some(_), true) => {
                return Err(usage(format!(
                    "`--method {method}` takes out blocks, found a width beside them\n\
                 hint: `--method taylor` or `activation` in a second call"
                )));
            }
            (false, Some(_), _) => {
                return Err(usage(format!(
                    "`--method {method}` takes out heads and channels, found `--num-hidden-layers`\n\
                 hint: `--method block-influence` or `angular` in a call of its own"
                )));
            }
            (false, None, false) => {
                return Err(usage(format!(
                    "`--method {method}` takes out heads and channels\n\
                 hint: say how many stay, by `--intermediate-size` or `--num-key-value-heads`"
                )));
            }
        }
        let fits = |option: &str, wanted: Option<usize>, there: usize| match wanted {
            Some(wanted) if wanted == 0 || wanted >= there => Err(usage(format!(
                "`--{option}`: wanted a number from 1 to {} that stays, found {wanted}",
                there - 1
            ))),
            _ => Ok(()),
        };
        fits("num-hidden-layers", self.num_hidden_layers, config.num_hidden_layers)?;
        fits(
            "intermediate-size",
            self.intermediate_size,
            config.intermediate_size as usize,
        )?;
        fits(
            "num-key-value-heads",
            self.num_key_value_heads,
            config.num_key_value_heads as usize,
        )?;
        if let Some(groups) = self.num_key_value_heads {
            let heads = groups as i64 * config.num_attention_heads / config.num_key_value_heads;
            ensure!(
                config.hidden_size % heads == 0,
                "`--num-key-value-heads`: {groups} of them have {heads} query heads, which do not divide the width {}, and \
                 Transformers refuses such a model\nhint: choose another number",
                config.hidden_size
            );
        }
        let Self {
            num_hidden_layers,
            intermediate_size,
            num_key_value_heads,
        } = self;
        Ok(Structure {
            by,
            sizes: Sizes {
                num_hidden_layers,
                intermediate_size,
                num_key_value_heads,
            },
        })
    }
}
