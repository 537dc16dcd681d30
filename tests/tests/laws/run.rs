//! A run, a reading or a verb of the command, in this process.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, Result, ensure};
use clap::Parser as _;
use decoder::{Decoder, HeadKind};
use events::{Event, Events};
use finetune::args::MachineArgs;
use finetune::args::ModelArgs;
use finetune::cli::Cli;
use methods::recipe::Recipe;
use models::machine::{Dtype, Machine};
use session::training::{self, Begin, Watch};
use tch::{Device, Kind, Tensor};
use tensor_core::{Documents, Pass, SideLosses};

use super::bases::{Base, VOCABULARY};
use super::methods::Method;

/// A method over a base.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) method: &'static Method,
    pub(crate) base: Base,
}

impl Case {
    pub(crate) fn name(&self) -> String {
        format!("{} over {}", self.method.name, self.base.name())
    }

    pub(crate) fn machine(&self) -> Machine {
        machine(self.base.precision.kind())
    }

    /// Its recipe in `room`, trained into `output`: three steps, so that two follow a state that is not the start.
    pub(crate) fn recipe(&self, room: &Path, model: &Path, output: &Path) -> Result<PathBuf> {
        let packs = self.base.precision.surgery();
        let surgery = surgeries(packs.iter().chain(self.method.surgery));
        // A recipe finds files beside itself, and this one lies elsewhere.
        let surgery = surgery.replace("'rows.jsonl'", &format!("'{}'", room.join("rows.jsonl").display()));
        let rows = if self.method.objective == "classify" {
            "classes.jsonl"
        } else {
            "rows.jsonl"
        };
        let text = recipe(
            &surgery,
            self.method.objective,
            self.base.precision.kind(),
            (model, &room.join(rows), output),
        );
        let path = output.with_extension("toml");
        fs::write(&path, text)?;
        Ok(path)
    }
}

/// Tables of a recipe, a surgery each.
pub(crate) fn surgeries<'s>(each: impl Iterator<Item = &'s &'s str>) -> String {
    each.fold(String::new(), |text, one| text + "[[surgery]]\n" + one + "\n\n")
}

/// A recipe of these surgeries for `(model, rows, output)`.
pub(crate) fn recipe(
    surgery: &str,
    objective: &str,
    kind: Kind,
    (model, rows, output): (&Path, &Path, &Path),
) -> String {
    let dtype = if kind == Kind::BFloat16 { "bf16" } else { "f32" };
    let [model, rows, output] = [model, rows, output].map(|path| path.display().to_string());
    format!(
        "[model]\nname_or_path = {model:?}\ndtype = \"{dtype}\"\ndevice = \"cpu\"\n\n{surgery}[objective]\nkind = \"{objective}\"\n\n\
         [data]\ntrain = [{{ path = {rows:?} }}]\nmax_length = 64\nmax_tokens = 96\n\n[report]\nsamples = 0\nrecall = false\n\n\
         [train]\noutput_dir = {output:?}\nmax_steps = 3\nper_device_train_batch_size = 3\nlearning_rate = 2e-2\n\
         lr_scheduler_type = \"constant\"\nwarmup_steps = 0\nlogging_steps = 1\nsave_steps = 3\nreport_to = []\nseed = 5\n"
    )
}

pub(crate) fn machine(kind: Kind) -> Machine {
    Machine {
        device: Device::Cpu,
        kind,
    }
}

/// A folder with the rows that every run learns, and a cache of its own for this process.
pub(crate) fn room() -> &'static Path {
    static ROOM: OnceLock<tempfile::TempDir> = OnceLock::new();
    let room = ROOM.get_or_init(|| {
        let room = tempfile::tempdir().expect("a folder");
        let sayings = [
            "the early bird",
            "quick brown fox",
            "all that glitters",
            "slow and steady",
        ];
        let row = |n: usize| {
            format!(
                "{{\"prompt\": \"{} {n}:\", \"completion\": \" {}\"}}\n",
                sayings[n % 4],
                sayings[(n + 1) % 4]
            )
        };
        let class = |n: usize| {
            format!(
                "{{\"text\": \"{} {n}\", \"label\": \"{}\"}}\n",
                sayings[n % 4],
                ["good", "bad"][n % 2]
            )
        };
        fs::write(room.path().join("rows.jsonl"), (0..9).map(row).collect::<String>()).expect("rows");
        fs::write(room.path().join("classes.jsonl"), (0..9).map(class).collect::<String>()).expect("rows");
        checkpoint::use_cache_dir(room.path().join("cache"));
        room
    });
    room.path()
}

/// What a model says of three documents, as bits.
pub(crate) type Said = Vec<f32>;

/// Tokens of each of the three documents.
pub(crate) const DOCUMENTS: [usize; 3] = [12, 7, 1];

fn tokens() -> Vec<i64> {
    (0..20).map(|n| (n * 37 + 5) % (VOCABULARY - 1)).collect()
}

/// The experts that each token of the documents is given to: a row a token, a number for each expert of each layer.
///
/// A layer counts the tokens of each expert in a pass, and what follows a token does not reach it: what the counts of a
/// document grow by with a token more is that token's.
pub(crate) fn routes(model: &Decoder) -> Vec<Vec<f64>> {
    let all = tokens();
    let (mut rows, mut start) = (Vec::new(), 0);
    for length in DOCUMENTS {
        let mut before: Vec<f64> = Vec::new();
        for end in 1..=length {
            let tokens = Tensor::from_slice(&all[start..start + end]);
            let (documents, side) = (Documents::new(&[end]), SideLosses::default());
            let _ = model.hidden(&tokens, &Pass::evaluate(&documents).with_side_losses(&side));
            let counts: Vec<f64> = side
                .drain_tallies()
                .into_iter()
                .flat_map(|(_, counts)| counts)
                .collect();
            before.resize(counts.len(), 0.0);
            rows.push(counts.iter().zip(&before).map(|(now, before)| now - before).collect());
            before = counts;
        }
        start += length;
    }
    rows
}

/// What `model` says of three documents.
pub(crate) fn say(model: &Decoder) -> Said {
    let (tokens, documents) = (Tensor::from_slice(&tokens()), Documents::new(&DOCUMENTS));
    let said = match model.head_kind() {
        HeadKind::LanguageModel => model.logits(&tokens, &documents),
        _ => model.classify(&tokens, &documents),
    };
    Vec::try_from(said.to_kind(Kind::Float).contiguous().view([-1])).expect("numbers")
}

/// Trains as the recipe at `path` says and returns what the model says as the run leaves it; with `one_step`, the run is
/// stopped after its first.
pub(crate) fn train(path: &Path, machine: Machine, begin: Begin, one_step: bool) -> Result<Said> {
    let recipe = Recipe::read(path, &[])?;
    let stop = Arc::new(AtomicBool::new(false));
    let said = RefCell::new(Said::new());
    let stopped = stop.clone();
    let events = Events::new(move |event| {
        if matches!(event, Event::Trained { .. }) {
            stopped.store(one_step, Ordering::Relaxed);
        }
    });
    let look = |model: &Decoder| *said.borrow_mut() = say(model);
    let report = training::run(
        recipe,
        machine,
        begin,
        &Watch::new(&stop).with_events(events).with_model(&look),
    )?;
    let is_stopped = matches!(report.outcome, train::Outcome::Interrupted { step: 1, .. });
    ensure!(is_stopped == one_step, "the run ended so: {}", report.outcome);
    Ok(said.into_inner())
}

/// What the base of a case says before anything is put into it but what its recipe packs.
pub(crate) fn base(case: &Case, recipe: &Path) -> Result<Decoder> {
    let recipe = Recipe::read(recipe, &[])?;
    methods::load(&recipe.model.open(&Events::none())?, case.machine(), &recipe)
}

/// The model of a finished run, as every verb would read it.
pub(crate) fn load(case: &Case, model: &Path, adapter: Option<&Path>) -> Result<Decoder> {
    let dtype = if case.base.precision.kind() == Kind::BFloat16 {
        Dtype::Bf16
    } else {
        Dtype::F32
    };
    let adapter = adapter.map(|adapter| adapter.display().to_string().parse().map_err(anyhow::Error::msg));
    let args = ModelArgs {
        model: model.display().to_string(),
        revision: None,
        adapter: adapter.into_iter().collect::<Result<_>>()?,
        against: None,
        machine: MachineArgs {
            dtype: Some(dtype),
            device: Some("cpu".into()),
            threads: Some(1),
        },
    };
    Ok(args.load(&Events::none())?.model)
}

/// Runs a verb of the command.
pub(crate) fn verb(args: &[&str]) -> Result<()> {
    let args = [&["finetune"], args, &["--device", "cpu", "--threads", "1"]].concat();
    let cli = Cli::try_parse_from(&args)?;
    cli.verb.run().with_context(|| args.join(" ")).map(|_| ())
}
