//! A run, from a recipe to files: data, model, surgery, the loop, what is kept.

pub mod evaluation;
pub mod forgetting;
pub mod memory;
pub mod record;
pub mod reference;
mod report_draft;
pub mod rollouts;
pub mod rows;
pub mod samples;
pub mod saving;
pub mod sets;
pub mod states;
pub mod steps;
mod watch;

use align_dpo_ppo::{Likelihood, Preference, Reference, ReplyRow, RewardLoss, ScoredRow, SingleReplies, SingleRow};
use anyhow::{Context as _, Result, bail};
use decoder::loss::{ClassificationLoss, Distillation, LabelledRow, SupervisedLoss, TokenRow};
use decoder::{Decoder, HeadKind};
use events::{Events, figures};
use methods::hft::Half;
use methods::recipe::{DistillConfig, ObjectiveConfig, Recipe, Surgery};
use methods::{self, Adapted};
use models::Source;
use models::experts::Balancing;
use models::machine::{Dtype, Machine};
use models::quantised::num_params;
use tensor_core::Objective;
use train::{Hooks, Outcome, Report, RunDir, Start};

use self::evaluation::Evaluation;
use self::record::{Open, Record};
use self::reference::Known;
use self::report_draft::ReportDraft;
use self::rows::ToRow;
use self::sets::Sets;
use self::steps::Steps;
pub use self::watch::Watch;
use crate::rewards::Speaker;

/// How to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// A new run.
    New,
    /// From the newest checkpoint in the output folder.
    Resume,
}

/// Trains as `recipe` says, until it is done or the caller stops it.
///
/// Several runs may follow each other in one process, or go side by side in folders of their own.
pub fn run(mut recipe: Recipe, machine: Machine, begin: Begin, watch: &Watch) -> Result<Report> {
    let events = watch.events();
    let open = Open::of(&recipe)?;
    recipe.model.dtype = Dtype::of(machine.kind);
    recipe.model.device = device_name(machine.device);
    let start = match (begin, recipe.train.overwrite_output_dir) {
        (Begin::Resume, _) => Start::Resume,
        (Begin::New, true) => Start::Overwrite,
        (Begin::New, false) => Start::New,
    };
    // Whether an older run may be thrown away says nothing about this one.
    recipe.train.overwrite_output_dir = false;
    let earlier = match start {
        Start::Resume => Record::read(recipe.output_dir())?,
        Start::New | Start::Overwrite => None,
    };
    let source = record::open_base(&recipe.model, earlier.as_ref(), events)?;
    recipe.fits(source.dir())?;
    sets::within_positions(&mut recipe, &source);
    let time = record::time(earlier.as_ref())?;
    let tokenizer = source.tokenizer()?.at_time(time)?;
    let sets = Sets::read(&recipe, &tokenizer, events)?;
    let format = match recipe.objective.has_rollouts() {
        true => rollouts::prompt_format(&recipe)?,
        false => sets.prompt_format(),
    };
    let source = source.with_prompt_format(format);
    let dir = RunDir::open(recipe.output_dir(), &recipe.to_toml()?, start)?;
    let record = Record::of(&recipe, (&source, &tokenizer), machine, &open, time)?;
    let record = match begin {
        Begin::New => record,
        Begin::Resume => record.after(earlier, &dir, watch.allowed(), events)?,
    };
    source.describe(record.provenance());
    let dir = dir.with_record(record.text()?);
    let model = methods::load(&source, machine, &recipe)?;
    let model = with_head(model, &sets, &recipe)?;
    let adapted = methods::apply(model, &recipe, &source)?;
    let (all, trainable) = num_params(&adapted.model);
    events.note(|| {
        format!(
            "{}: {} parameters, {} of them train; {}, {} on {}",
            recipe.model.name_or_path,
            figures::count(all as f64),
            figures::count(trainable as f64),
            adapted.what,
            if machine.kind == tch::Kind::BFloat16 {
                "bf16"
            } else {
                "f32"
            },
            recipe.model.device,
        )
    });
    let run = Run {
        recipe: &recipe,
        source: &source,
        tokenizer: &tokenizer,
        sets: &sets,
        adapted: &adapted,
        dir: &dir,
        known: None,
        watch,
    };
    let report = run.train(machine)?;
    watch.ended(&adapted.model);
    Ok(report)
}

/// The model with the output layer that the objective trains.
fn with_head(model: Decoder, sets: &Sets, recipe: &Recipe) -> Result<Decoder> {
    let kind = match (&sets.labels, &recipe.objective) {
        (Some(labels), _) => HeadKind::Classification { labels: labels.clone() },
        (None, ObjectiveConfig::Reward(_)) => HeadKind::Scalar,
        _ => return Ok(model),
    };
    Ok(model.replace_head(kind, recipe.train.seed)?)
}

/// Everything that a run reads.
struct Run<'a> {
    recipe: &'a Recipe,
    source: &'a Source,
    tokenizer: &'a data::Tokenizer,
    sets: &'a Sets,
    adapted: &'a Adapted,
    dir: &'a RunDir,
    known: Option<Known>,
    watch: &'a Watch<'a>,
}

impl Run<'_> {
    /// Whoever follows it.
    fn events(&self) -> &Events {
        self.watch.events()
    }

    /// Trains by the recipe's objective.
    fn train(self, machine: Machine) -> Result<Report> {
        let Self {
            recipe, sets, adapted, ..
        } = self;
        let reference = || reference::choose(recipe, self.source, machine, adapted);
        match &recipe.objective {
            ObjectiveConfig::Sft(_) => self.fit::<TokenRow>(&SupervisedLoss),
            ObjectiveConfig::Classify(_) => self.fit::<LabelledRow>(&ClassificationLoss),
            ObjectiveConfig::Distill(distill) => {
                let teacher = self.teacher(distill, machine)?;
                self.fit::<TokenRow>(&Distillation::new(&teacher, distill.temperature, distill.alpha))
            }
            ObjectiveConfig::Dpo(config) => {
                let mut reference = config.needs_reference().then(&reference).transpose()?;
                let mut known = None;
                if let Some(computing) = reference.take_if(|_| config.precompute_ref_log_probs) {
                    let model = &adapted.model;
                    known = Some(reference::known(
                        recipe,
                        sets,
                        model,
                        &computing,
                        machine,
                        self.events(),
                    )?);
                    reference = Some(Reference::of_rows());
                }
                let objective = Preference::new(config, Likelihood::Reply, reference)?;
                Run { known, ..self }.fit::<ReplyRow>(&objective)
            }
            ObjectiveConfig::Orpo(config) => {
                let (config, likelihood) = config.preference();
                self.fit::<ReplyRow>(&Preference::new(&config, likelihood, None)?)
            }
            ObjectiveConfig::Kto(config) => self.fit::<SingleRow>(&SingleReplies::new(config, reference()?)?),
            ObjectiveConfig::Ppo(_) | ObjectiveConfig::Grpo(_) => rollouts::fit(&self, &reference),
            ObjectiveConfig::Reward(config) => self.fit::<ScoredRow>(&RewardLoss::new(config)?),
            ObjectiveConfig::Memory(options) => match adapted.memory() {
                Some(bank) => memory::fit(&self, bank, options),
                None => bail!("`objective.kind = \"memory\"` wants a `[[surgery]]` of `kind = \"memory\"`"),
            },
        }
    }

    /// The model that is learnt from; its tokens must mean what the student's mean.
    fn teacher(&self, distill: &DistillConfig, machine: Machine) -> Result<Decoder> {
        let source = Source::open(&distill.teacher, self.events()).context("`objective.teacher`")?;
        let starts_as_base = |surgery: &Surgery| !surgery.changes_the_model() && surgery.dropout() == 0.0;
        let place = |source: &Source| source.dir().path().canonicalize().ok();
        if place(&source) == place(self.source)
            && distill.alpha == 0.0
            && self.recipe.surgery.iter().all(starts_as_base)
        {
            bail!(
                "`objective.teacher`: wanted another model than the student, found `{}` for both: they agree from the first step on, and nothing is learnt\n\
                 hint: name a larger model of the same family; or change the student first with `kind = \"prune\"` or \"quantize\"; `objective.alpha` learns from the text too",
                distill.teacher
            );
        }
        self.speaker().same_tokens(&source).context("`objective.teacher`")?;
        let teacher = source.decoder(machine)?;
        let (wanted, found) = (self.adapted.model.vocab_size(), teacher.vocab_size());
        if wanted != found || *teacher.head_kind() != HeadKind::LanguageModel {
            bail!(
                "`objective.teacher`: wanted a language model of {wanted} tokens, found one of {found} for {}",
                teacher.head_kind().name()
            );
        }
        Ok(teacher)
    }

    /// The model as rewards and teachers see it.
    fn speaker(&self) -> Speaker<'_> {
        Speaker {
            model: &self.adapted.model,
            source: self.source,
            tokenizer: self.tokenizer,
        }
    }

    fn fit<B: ToRow>(&self, objective: &dyn Objective<Batch = B>) -> Result<Report> {
        let (recipe, model) = (self.recipe, &self.adapted.model);
        let batches = Steps::training(self.sets, recipe, model.device())?.with_events(self.events());
        let batches = match &self.known {
            Some(known) => batches.with_known(known.train.clone()),
            None => batches,
        };
        let draft = ReportDraft::begin(self)?;
        let half = Half::of(model, recipe)?;
        let evaluation = Evaluation::new(
            self.sets,
            recipe,
            self.known.as_ref().map(|known| known.eval.as_slice()),
            (model.device(), self.events()),
        )?;
        let mut evaluate = |_: usize| evaluation.measure(model, objective).map_err(Into::into);
        let save =
            |folder: &std::path::Path| saving::save(folder, self.adapted, self.source, self.sets).map_err(Into::into);
        let mut hooks = Hooks::new(self.dir, &save)
            .with_events(self.events().clone())
            .with_stop(self.watch.stop())
            .with_states(states::states(&recipe.train)?);
        if !self.sets.eval.is_empty() {
            hooks = hooks.with_evaluation(&mut evaluate);
        }
        if let Some(half) = &half {
            hooks = hooks.with_rounds(half);
        }
        let balancing = Balancing::of(model, &recipe.router_options());
        if let Some(balancing) = &balancing {
            hooks = hooks.with_after_step(balancing);
        }
        let report = train::fit(
            model as &dyn tensor_core::LanguageModel,
            objective,
            &batches,
            &recipe.train,
            hooks,
        )?;
        if !matches!(report.outcome, Outcome::Interrupted { .. }) {
            let settings = half.map_or_else(Vec::new, |half| half.settings(report.num_steps, batches.len()));
            draft.end(&report, Vec::new(), settings)?;
        }
        Ok(report)
    }
}

fn device_name(device: tch::Device) -> String {
    match device {
        tch::Device::Cuda(index) => format!("cuda:{index}"),
        _ => "cpu".into(),
    }
}
