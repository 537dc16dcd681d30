//! Where things lie: the checkout, and the cache outside it that every checkout shares.

use anyhow::{Result, ensure};
pub(crate) use fetch::{Cache, write_if_changed};
use std::env;
use std::path::{Path, PathBuf};

/// The cache that the environment names. Refused if it lies inside the checkout.
pub(crate) fn cache() -> Result<Cache> {
    let cache = Cache::from_env(|line| eprintln!("{line}"))?;
    ensure!(
        !cache.root().starts_with(checkout()),
        "the cache `{}` lies inside the checkout\nhint: set FINETUNE_CACHE to a folder outside `{}`",
        cache.root().display(),
        checkout().display(),
    );
    Ok(cache)
}

/// The root of the checkout that this command was built from.
pub(crate) fn checkout() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    manifest.parent().map_or(manifest.clone(), Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checkout_is_the_folder_with_the_workspace() {
        assert!(checkout().join("Cargo.lock").is_file());
    }
}
