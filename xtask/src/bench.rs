//! placeholder
use crate::{place::Cache, tools::Tools};
#[derive(clap::Args)]
pub(crate) struct Arguments {}
pub(crate) fn run(_: &Cache, _: &Tools, _: &Arguments) -> anyhow::Result<()> {
    Ok(())
}
