//! Where a module or parameter lies in a model: the checkpoint's own dotted name.

use std::fmt;

/// A dotted path such as `model.layers.0.self_attn.q_proj`, exactly as the checkpoint names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModulePath(String);

impl ModulePath {
    /// The model itself: the empty path.
    pub fn root() -> Self {
        Self::default()
    }

    /// The path of `name` inside this module.
    #[must_use]
    pub fn join(&self, name: impl fmt::Display) -> Self {
        if self.0.is_empty() {
            Self(name.to_string())
        } else {
            Self(format!("{}.{name}", self.0))
        }
    }

    /// The dotted name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last component: `q_proj` of `model.layers.0.self_attn.q_proj`.
    pub fn name(&self) -> &str {
        self.0.rsplit('.').next().unwrap_or(&self.0)
    }

    /// The first all-digit component, which is the layer's number in every supported family.
    pub fn layer_idx(&self) -> Option<usize> {
        self.0.split('.').find_map(|part| part.parse().ok())
    }

    /// A number that is the same for the same path in every run: where dropout draws its own stream.
    pub fn site(&self) -> u64 {
        // FNV-1a.
        self.0.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }
}

impl fmt::Display for ModulePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for ModulePath {
    fn from(path: &str) -> Self {
        Self(path.to_owned())
    }
}

impl From<String> for ModulePath {
    fn from(path: String) -> Self {
        Self(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_knows_its_layer_and_its_name() {
        let path = ModulePath::root()
            .join("model")
            .join("layers")
            .join(12)
            .join("mlp.up_proj");
        assert_eq!(path.as_str(), "model.layers.12.mlp.up_proj");
        assert_eq!(path.name(), "up_proj");
        assert_eq!(path.layer_idx(), Some(12));
        assert_eq!(ModulePath::from("lm_head").layer_idx(), None);
    }
}
