//! The files that rewards name: beside the recipe or suite, in the working directory, or in the local store.

use std::path::Path;

use align_dpo_ppo::reward::RewardFunction;

use ::recipe::Places;

/// What cannot be found: the reward's key, and what it says.
type Missing = (&'static str, String);

/// Finds what `reward` names.
pub(super) fn find(reward: &mut RewardFunction, places: &Places) -> Result<(), Missing> {
    match reward {
        RewardFunction::Lexicon { path, .. } => {
            let found = places.data(&path.display().to_string());
            *path = found.ok_or_else(|| ("path", format!("no such file: `{}`", path.display())))?;
        }
        RewardFunction::Model { model, adapter, .. } => {
            *model = places.model(model);
            if let Some(folder) = adapter {
                *folder = places
                    .folder(folder)
                    .ok_or_else(|| ("adapter", format!("no such folder: `{}`", folder.display())))?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// Finds what rewards of a suite name; the suite's data lie in `folder`.
pub fn find_beside(rewards: &mut [RewardFunction], folder: &Path) -> Result<(), String> {
    let places = Places::beside(folder);
    rewards
        .iter_mut()
        .try_for_each(|reward| find(reward, &places).map_err(|(key, what)| format!("`{key}`: {what}")))
}
