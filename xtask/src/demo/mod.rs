//! placeholder
use crate::{place::Cache, tools::Tools};
pub(crate) fn run(_: &Cache, _: &Tools) -> anyhow::Result<()> {
    Ok(())
}
