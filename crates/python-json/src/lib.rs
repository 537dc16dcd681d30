//! JSON as Python's `json` module reads and writes it, which is what configurations of models are written with.
//!
//! Python writes `NaN`, `Infinity` and `-Infinity`, which JSON does not know, and other tools put a byte-order mark in
//! front. [`from_slice`] reads both; [`to_string`] writes files back byte for byte. Nothing here knows of tensors.
//!
//! ```
//! use serde_json::Value;
//!
//! let object: Value = python_json::from_slice(b"\xef\xbb\xbf{\"limit\": Infinity, \"size\": 2}")?;
//! assert_eq!(object["size"], 2);
//! assert_eq!(python_json::shown(&object["limit"]), "Infinity");
//! assert_eq!(python_json::to_line(&object), r#"{"limit": Infinity, "size": 2}"#);
//! # Ok::<(), serde_json::Error>(())
//! ```

mod line;
mod read;
mod write;

pub use line::line_of;
pub use read::{from_slice, shown, without_mark};
pub use write::{to_line, to_string};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
