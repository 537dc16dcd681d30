//! Which modules a low-rank surgery updates, and how their weights are held, before the model is loaded.

use checkpoint::ModelDir;
use lora::LoraConfig;
use models::zeros;
use quant::{QuantizedWeight, Quantizing};
use tch::{Kind, Tensor};
use tensor_core::ModulePath;

use super::Combination;
use crate::recipe::ObjectiveConfig;

/// The token table.
const TABLE: &str = "model.embed_tokens";

/// Whether the token table is among the modules that `config` updates.
pub(crate) fn updates_table(config: &LoraConfig) -> bool {
    let table = ModulePath::from(TABLE);
    let is_chosen = config.modules().is_ok_and(|modules| modules.contains(&table, true));
    is_chosen && !config.is_saved_whole(&table)
}

/// The key `option` of the first low-rank surgery that `is_meant` and updates a projection whose weight is packed, or is
/// not, as `packed` says.
pub(crate) fn updated(
    combination: &Combination,
    packed: bool,
    option: &str,
    is_meant: impl Fn(&LoraConfig) -> bool,
) -> Option<String> {
    let base = combination.base?;
    combination.surgery.iter().enumerate().find_map(|(idx, surgery)| {
        let config = surgery.low_rank().filter(|config| is_meant(config))?;
        let updated = projections(combination, base, config);
        let meets = updated.iter().any(|path| is_packed(combination, base, path) == packed);
        meets.then(|| format!("surgery.{idx}.{option}"))
    })
}

/// The projections of `base` that `config` updates.
fn projections(combination: &Combination, base: &ModelDir, config: &LoraConfig) -> Vec<ModulePath> {
    let Ok(modules) = config.modules() else {
        return Vec::new();
    };
    // A new head trains whole.
    let has_new_head = matches!(
        combination.objective,
        ObjectiveConfig::Classify(_) | ObjectiveConfig::Reward(_)
    );
    let paths = decoder::projection_paths(base.config()).into_iter();
    let paths = paths.filter(|(path, is_output)| {
        modules.contains(path, *is_output) && !config.is_saved_whole(path) && !(has_new_head && *is_output)
    });
    paths.map(|(path, _)| path).collect()
}

/// The key of the first low-rank surgery that trains a pruned matrix whole.
pub(crate) fn pruned_whole(combination: &Combination) -> Option<String> {
    let base = combination.base?;
    combination.surgery.iter().enumerate().find_map(|(idx, surgery)| {
        let config = surgery.low_rank()?;
        let mut paths = decoder::projection_paths(base.config()).into_iter();
        let meets = paths.any(|(path, _)| {
            let is_whole = path.layer_idx().is_some() && config.is_saved_whole(&path);
            let weight = || weight(combination, base, &path);
            is_whole && weight().is_some_and(|weight| zeros::mask_of(&weight).is_some())
        });
        meets.then(|| format!("surgery.{idx}.modules_to_save"))
    })
}

/// The weight of the module at `path` as the surgery meets it.
fn weight(combination: &Combination, base: &ModelDir, path: &ModulePath) -> Option<Tensor> {
    let weight = base.tensor_as(path.join("weight").as_str(), Kind::Float).ok()?;
    match combination.packing() {
        Some(config) if is_packed(combination, base, path) => {
            let packed = QuantizedWeight::of(&weight, config.scheme, config.block_size, config.double_quant);
            Some(packed.ok()?.dequantise(Kind::Float))
        }
        _ => Some(weight),
    }
}

/// Whether the weight of the module at `path` is packed when the surgery meets it.
fn is_packed(combination: &Combination, base: &ModelDir, path: &ModulePath) -> bool {
    if let Some(config) = combination.packing() {
        let paths = decoder::projection_paths(base.config());
        return Quantizing::choose(config.clone(), &paths).is_ok_and(|quantizing| quantizing.contains(path));
    }
    let packed = base.packed(path.join("weight").as_str());
    packed.is_ok_and(|packed| packed.is_some())
}
