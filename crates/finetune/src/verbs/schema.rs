//! `finetune schema`: the JSON Schema of recipes.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use checkpoint::write_file;
use methods::recipe;

use crate::output;

/// Arguments of `schema`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "An editor that knows taplo (VS Code: \"Even Better TOML\") takes the schema from a first line of the recipe,\n\
                  `#:schema ./recipe.schema.json`: it then completes keys, shows what they mean, and marks what is wrong.\n\n\
                  Example:\n  finetune schema --output recipe.schema.json"
)]
pub struct Args {
    /// Where it is written [default: standard output]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Args {
    /// Prints or writes it.
    pub fn run(self) -> Result<ExitCode> {
        let text = serde_json::to_string_pretty(&recipe::schema())? + "\n";
        match &self.output {
            None => output::piece(&text)?,
            Some(path) => {
                write_file(path, text.as_bytes())?;
                output::note(format!("schema of recipes written to `{}`", path.display()));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
