//! `finetune forget`: facts out of a memory, without training.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use data::{EncodeConfig, ReadConfig, TokenSet};
use methods::facts::{self, Written};
use methods::memories::{self, Memories};
use models::Source;
use serde_json::{Value, json};

use crate::args::MachineArgs;
use crate::output;

/// Arguments of `forget`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Facts are found by their questions; their answers in FILE do not matter. Experts that hold other facts too are\n\
                  left as they are, and counted. To replace a fact, forget it, then train its new answer with\n\
                  `surgery.0.continue_from` naming the result.\n\n\
                  Example:\n  finetune forget --adapter runs/memory --data outdated.jsonl --output runs/memory-2"
)]
pub struct Args {
    /// The memory's folder
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// Rows whose facts are forgotten; they are found by their questions
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Where the memory without these facts is written; a memory that is there is not replaced
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// The model that the memory was made for, where it has another name or place now
    #[arg(long, value_name = "M")]
    model: Option<String>,
    /// What was done, as JSON on stdout
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: MachineArgs,
}

impl Args {
    /// Resets the experts that hold these facts alone.
    pub fn run(self) -> Result<ExitCode> {
        if memories::is_in(&self.output) {
            return Err(checkpoint::Error::Exists {
                path: self.output.clone(),
                found: "a memory".into(),
            }
            .into());
        }
        let saved = Memories::open(&self.adapter)?;
        let base = saved.file().get("base_model_name_or_path").and_then(Value::as_str);
        let Some(name) = self.model.as_deref().or(base) else {
            bail!(
                "`{}` names no model\nhint: name it with `--model`",
                self.adapter.display()
            );
        };
        let source = Source::open(name, &output::events())?
            .with_templates_in(&self.adapter)?
            .with_prompt_format_in(&self.adapter)?;
        let known = facts::read(&self.adapter)?;
        let asked = self.questions(&source)?;
        let (gone, kept): (Vec<Written>, Vec<Written>) = known
            .into_iter()
            .partition(|written| asked.contains(written.fact.prompt()));
        ensure!(
            gone.len() == asked.len(),
            "`{}`: {} of {} questions are not among the facts of `{}`\nhint: a question is known by its very tokens; `facts.jsonl` there lists them",
            self.data.display(),
            asked.len().saturating_sub(gone.len()),
            asked.len(),
            self.adapter.display()
        );
        let (_, bank) = saved.place(source.decoder(self.machine.start()?)?)?;
        let (mine, others) = (by_projection(&gone), by_projection(&kept));
        let counts = bank.each(|_, at, experts| {
            let none = HashSet::new();
            let (mine, others) = (
                mine.get(at.as_str()).unwrap_or(&none),
                others.get(at.as_str()).unwrap_or(&none),
            );
            let alone: Vec<u32> = mine.difference(others).copied().collect();
            for &id in &alone {
                experts.table.reset(id);
            }
            (alone.len(), mine.len() - alone.len())
        });
        let reset: usize = counts.iter().map(|(reset, _)| reset).sum();
        let shared: usize = counts.iter().map(|(_, shared)| shared).sum();
        std::fs::create_dir_all(&self.output).with_context(|| format!("`{}`", self.output.display()))?;
        memories::save(&self.output, &bank, name)?;
        facts::write(&self.output, &kept)?;
        source.save_tokenizer(&self.output)?;
        if self.json {
            output::json(&json!({"forgotten": gone.len(), "left": kept.len(), "reset": reset, "shared": shared}))?;
        }
        output::note(format!(
            "{} facts forgotten, {} left; {reset} experts are as they began, {shared} hold other facts too and stay; written to `{}`",
            gone.len(),
            kept.len(),
            self.output.display()
        ));
        Ok(ExitCode::SUCCESS)
    }

    /// The tokens of each row's question.
    fn questions(&self, source: &Source) -> Result<HashSet<Vec<u32>>> {
        let rows = models::datafile::read(&self.data, &ReadConfig::default(), &output::events())?;
        let set = TokenSet::build(&rows, &source.tokenizer()?, &EncodeConfig::default(), None, &|_| ())?;
        let facts = facts::of_sets(std::iter::once((&set, None)))?;
        Ok(facts.iter().map(|fact| fact.prompt().to_vec()).collect())
    }
}

/// The experts of these facts.
fn by_projection(facts: &[Written]) -> BTreeMap<&str, HashSet<u32>> {
    let mut found: BTreeMap<&str, HashSet<u32>> = BTreeMap::new();
    for (path, experts) in facts.iter().flat_map(|written| &written.experts) {
        found.entry(path).or_default().extend(experts);
    }
    found
}
