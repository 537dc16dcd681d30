//! Several adapters of one base as one, in PEFT's format: what must agree, and what is written.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use checkpoint::{StagedDir, TokenizerFiles};
use events::Events;
use lora::combine::Combination;
use methods::peft::{Adapter, LABELS, save_adapter};
use models::provenance::{self, Base};
use models::quantised::Quantisation;
use serde_json::Value;
use session::adapters::Templates;

/// How the base under them was packed, as far as they say; an error if they say different things.
pub fn packing(adapters: &[Adapter], events: &Events) -> Result<Option<Quantisation>> {
    let mut found: Option<(&Path, Quantisation)> = None;
    for adapter in adapters {
        match (&found, Quantisation::of_adapter(adapter.path())?) {
            (Some((first, one)), Some(other)) if *one != other => bail!(
                "`{}` was trained over {one}, `{}` over {other}\n\
                 hint: adapters of one base can be combined; merge one of them into a model of its own",
                first.display(),
                adapter.path().display()
            ),
            (None, Some(own)) => found = Some((adapter.path(), own)),
            _ => {}
        }
    }
    let Some((first, own)) = found else { return Ok(None) };
    for adapter in adapters {
        if Quantisation::of_adapter(adapter.path())?.is_none() {
            events.warn(|| {
                format!(
                    "`{}` was trained over {own}, `{}` does not say that it was: the result is one for {own}",
                    first.display(),
                    adapter.path().display()
                )
            });
        }
    }
    Ok(Some(own))
}

/// Refuses adapters of different tasks or bases. Adapters of different models may have the same shapes; only their names and
/// records tell. A `base_model` that the caller names settles the question.
pub fn refuse_other_bases(adapters: &[Adapter], base_model: Option<&str>) -> Result<()> {
    let tasks = adapters.iter().map(|one| (one, &one.file().config().task_type));
    refuse_two("task", tasks, "adapters of one task can be combined")?;
    if base_model.is_none() {
        // What they were trained over says more than what it was called.
        let recorded = recorded_bases(adapters)?;
        let hashes: Vec<Option<String>> = recorded
            .iter()
            .map(|base| base.as_ref().map(|base| base.tensors_sha256.clone()))
            .collect();
        if hashes.iter().all(Option::is_some) {
            let hint =
                "adapters of one base can be combined; if these bases are meant to be one model, give `--base-model`";
            return refuse_two("base (the SHA-256 of its tensors)", adapters.iter().zip(&hashes), hint);
        }
        let bases = adapters
            .iter()
            .map(|one| (one, &one.file().config().base_model_name_or_path));
        let hint = "adapters of one base can be combined; if these are names of one model, give `--base-model`";
        refuse_two("base model", bases, hint)?;
    }
    Ok(())
}

/// Writes `combination` into `folder` as PEFT reads it, with the classes, templates and provenance that its parts agree on.
pub fn write(
    folder: &Path,
    (adapters, combination): (&[Adapter], &Combination),
    packing: Option<&Quantisation>,
    base_model: Option<&str>,
    events: &Events,
) -> Result<()> {
    let configs = || adapters.iter().map(|adapter| adapter.file().config());
    let base = configs().find_map(|config| config.base_model_name_or_path.as_deref());
    let task = configs().find_map(|config| config.task_type.as_deref());
    let modules: Vec<_> = combination.modules.iter().map(|module| &module.at).collect();
    let base = base_model.or(base);
    let is_wrapped = |adapter: &Adapter| {
        let mut named = adapter.file().named_modules();
        named.any(|(at, named)| *at != named)
    };
    let tensors = combination.tensors.iter();
    let mut tensors: lora::Tensors = tensors
        .map(|(name, tensor)| (name.clone(), tensor.shallow_clone()))
        .collect();
    let mut options = combination.config.clone();
    if adapters.iter().any(is_wrapped) {
        (options, tensors) = lora::in_multimodal(options, tensors)?;
    }
    let mut config = lora::to_peft_config(&options, base, task.unwrap_or_default(), modules);
    if task.is_none() {
        config.insert("task_type".into(), Value::Null);
    }
    let staged = StagedDir::create(folder)?;
    save_adapter(staged.path(), config, &tensors)?;
    if let Some(packing) = packing {
        packing.save(staged.path())?;
    }
    for adapter in adapters.iter().filter(|adapter| adapter.path().join(LABELS).is_file()) {
        // The classes go with the head, which one adapter at most has.
        if adapter.touches("score") {
            let from = adapter.path().join(LABELS);
            std::fs::copy(&from, staged.path().join(LABELS)).with_context(|| format!("`{}`", from.display()))?;
        }
    }
    write_provenance(adapters, staged.path())?;
    match Templates::of(adapters.iter().map(Adapter::path))? {
        Templates::None => {}
        Templates::Same(folder) => TokenizerFiles::in_folder(folder)?.save(staged.path())?,
        Templates::Different(one, other) => events.note(|| format!(
            "`{}` and `{}` were trained with different chat templates: none is written, the model's own will be used",
            one.display(),
            other.display()
        )),
    }
    staged.commit()?;
    Ok(())
}

/// Writes the base that all adapters were trained over, if all say which, and the adapters.
fn write_provenance(adapters: &[Adapter], folder: &Path) -> Result<()> {
    let recorded = recorded_bases(adapters)?;
    let Some(Some(base)) = recorded.first() else {
        return Ok(());
    };
    let is_same = |other: &Option<Base>| {
        other
            .as_ref()
            .is_some_and(|other| other.tensors_sha256 == base.tensors_sha256)
    };
    if !recorded.iter().all(is_same) {
        return Ok(());
    }
    let mut made = provenance::made_of(base, "combine");
    let parts = adapters.iter().map(|one| provenance::adapter(one.path()));
    made.insert("adapters".into(), parts.collect::<Result<Vec<_>>>()?.into());
    provenance::write(folder, &made)
}

/// The base that each adapter says it was trained over.
fn recorded_bases(adapters: &[Adapter]) -> Result<Vec<Option<Base>>> {
    adapters.iter().map(|one| provenance::base_of(one.path())).collect()
}

/// An error if two adapters name two things; one that names nothing fits any.
fn refuse_two<'a>(
    what: &str,
    named: impl Iterator<Item = (&'a Adapter, &'a Option<String>)>,
    hint: &str,
) -> Result<()> {
    let named: Vec<(&Path, &str)> = named
        .filter_map(|(one, name)| Some((one.path(), name.as_deref()?)))
        .collect();
    let Some((first, wanted)) = named.first() else {
        return Ok(());
    };
    match named.iter().find(|(_, name)| name != wanted) {
        None => Ok(()),
        Some((path, found)) => bail!(
            "`{}`: wanted the {what} of `{}`, which is `{wanted}`, found `{found}`\nhint: {hint}",
            path.display(),
            first.display()
        ),
    }
}
