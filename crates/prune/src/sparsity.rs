//! How much goes: a share, or so many of every so many consecutive inputs.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How many weights of a matrix become zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sparsity {
    /// This share of the weights, from 0 to below 1.
    Share(f64),
    /// In every group of consecutive inputs, so many.
    Pattern(Pattern),
}

/// `zeros:of`: of every `of` consecutive inputs of a row, `zeros` are zero. Both halves of `2:4` are two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern {
    zeros: usize,
    of: usize,
}

impl Sparsity {
    /// A share from 0 to below 1.
    pub fn share(share: f64) -> Result<Self> {
        if (0.0..1.0).contains(&share) {
            return Ok(Self::Share(share));
        }
        Err(Error::Option {
            option: "sparsity",
            found: format!("{share} is no share from 0 to below 1"),
            hint: "0.5 takes every second weight; much above 0.6 little is left of a small model",
        })
    }

    /// The share that goes.
    pub fn as_share(self) -> f64 {
        match self {
            Self::Share(share) => share,
            Self::Pattern(Pattern { zeros, of }) => zeros as f64 / of as f64,
        }
    }
}

impl Pattern {
    /// `zeros` of every `of` inputs.
    pub fn new(zeros: usize, of: usize) -> Result<Self> {
        if 0 < zeros && zeros < of {
            return Ok(Self { zeros, of });
        }
        Err(Error::Option {
            option: "pattern",
            found: format!("{zeros} zeros in every {of} inputs"),
            hint: "`2:4` is two zeros in every four inputs, `4:8` four in eight",
        })
    }

    /// Zeros in a group.
    pub fn zeros(self) -> usize {
        self.zeros
    }

    /// Inputs in a group.
    pub fn of(self) -> usize {
        self.of
    }

    /// An error unless groups fill `width` inputs.
    pub(crate) fn fits(self, width: usize) -> Result<()> {
        if width.is_multiple_of(self.of) {
            return Ok(());
        }
        Err(Error::Groups { of: self.of, width })
    }
}

impl FromStr for Pattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let numbers = text.split_once(':').and_then(|(zeros, of)| {
            let number = |part: &str| part.trim().parse().ok();
            Some((number(zeros)?, number(of)?))
        });
        match numbers {
            Some((zeros, of)) => Self::new(zeros, of),
            None => Err(Error::Option {
                option: "pattern",
                found: format!("`{text}` is no pattern"),
                hint: "write two whole numbers with a colon, such as `2:4`",
            }),
        }
    }
}

impl TryFrom<String> for Pattern {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.to_string()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.zeros, self.of)
    }
}

impl fmt::Display for Sparsity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Share(share) => write!(f, "{} %", 100.0 * share),
            Self::Pattern(pattern) => pattern.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_read_and_write_themselves() {
        let pattern: Pattern = "2:4".parse().unwrap();
        assert_eq!(
            (pattern.zeros(), pattern.of(), pattern.to_string()),
            (2, 4, "2:4".into())
        );
        for wrong in ["", "2", "4:4", "0:4", "5:4", "a:b", "2:4:8"] {
            let error = wrong.parse::<Pattern>().unwrap_err().to_string();
            assert!(
                error.contains("`pattern`") && error.contains("hint:"),
                "{wrong}: {error}"
            );
        }
    }

    #[test]
    fn a_share_leaves_something() {
        assert_eq!(Sparsity::share(0.0).unwrap().as_share(), 0.0);
        for wrong in [1.0, -0.1, f64::NAN] {
            assert!(Sparsity::share(wrong).is_err(), "{wrong}");
        }
    }
}
