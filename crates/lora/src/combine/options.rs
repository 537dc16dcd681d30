//! How adapters are combined: PEFT's types and options under PEFT's names, and the exact sum.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// What becomes of several updates: PEFT's `combination_type`, and `sum`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CombinationType {
    /// The exact weighted sum of the updates, at the smallest rank that holds it, or cut to a rank.
    #[default]
    Sum,
    /// The exact weighted sum with all factors side by side: the ranks add up.
    Cat,
    /// The weighted sum cut to a rank, which is the largest of the adapters' if none is given.
    Svd,
    /// A and B are summed apart. Their product has cross terms `B_i A_j`, which belong to no adapter.
    Linear,
    /// TIES on A and on B: trim, vote on signs, average those that agree.
    Ties,
    /// TIES on the updates, cut to a rank.
    TiesSvd,
    /// DARE on A and on B: drop at random, scale up the rest, sum.
    DareLinear,
    /// As `dare_linear`, with TIES's vote in place of the sum.
    DareTies,
    /// DARE on the updates, cut to a rank.
    DareLinearSvd,
    /// As `dare_linear_svd`, with TIES's vote in place of the sum.
    DareTiesSvd,
    /// The largest numbers of A and of B, summed apart.
    MagnitudePrune,
    /// The largest numbers of the updates, summed and cut to a rank.
    MagnitudePruneSvd,
}

use CombinationType as Type;

/// What is done, taken apart: to which tensors, and what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// The stacked factors, at the smallest rank.
    Sum,
    /// The stacked factors.
    Cat,
    /// The stacked factors, cut.
    Svd,
    /// A and B apart.
    Factors(Merge),
    /// The dense updates, cut.
    Updates(Merge),
}

/// What becomes of tensors of one shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Merge {
    Linear,
    Ties,
    DareLinear,
    DareTies,
    MagnitudePrune,
}

impl Merge {
    pub(super) fn votes(self) -> bool {
        matches!(self, Self::Ties | Self::DareTies)
    }

    pub(super) fn prunes(self) -> bool {
        self != Self::Linear
    }
}

impl CombinationType {
    /// Every type with its name.
    pub const ALL: [(Self, &'static str); 12] = [
        (Type::Sum, "sum"),
        (Type::Cat, "cat"),
        (Type::Svd, "svd"),
        (Type::Linear, "linear"),
        (Type::Ties, "ties"),
        (Type::TiesSvd, "ties_svd"),
        (Type::DareLinear, "dare_linear"),
        (Type::DareTies, "dare_ties"),
        (Type::DareLinearSvd, "dare_linear_svd"),
        (Type::DareTiesSvd, "dare_ties_svd"),
        (Type::MagnitudePrune, "magnitude_prune"),
        (Type::MagnitudePruneSvd, "magnitude_prune_svd"),
    ];

    /// The name that PEFT gives it.
    pub fn name(self) -> &'static str {
        let found = Self::ALL.iter().find(|(known, _)| *known == self);
        found.map_or("sum", |(_, name)| name)
    }

    pub(super) fn way(self) -> Way {
        match self {
            Type::Sum => Way::Sum,
            Type::Cat => Way::Cat,
            Type::Svd => Way::Svd,
            Type::Linear => Way::Factors(Merge::Linear),
            Type::Ties => Way::Factors(Merge::Ties),
            Type::DareLinear => Way::Factors(Merge::DareLinear),
            Type::DareTies => Way::Factors(Merge::DareTies),
            Type::MagnitudePrune => Way::Factors(Merge::MagnitudePrune),
            Type::TiesSvd => Way::Updates(Merge::Ties),
            Type::DareLinearSvd => Way::Updates(Merge::DareLinear),
            Type::DareTiesSvd => Way::Updates(Merge::DareTies),
            Type::MagnitudePruneSvd => Way::Updates(Merge::MagnitudePrune),
        }
    }
}

impl fmt::Display for CombinationType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for CombinationType {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        let found = Self::ALL.iter().find(|(_, name)| *name == word);
        found.map(|(known, _)| *known).ok_or_else(|| Error::Option {
            option: "combination_type",
            found: format!("`{word}` is no way to combine adapters"),
            hint: "there are sum, cat, svd, linear, ties, dare_linear, dare_ties, magnitude_prune, and the last four \
                   with `_svd`",
        })
    }
}

/// How the sign of each number is voted on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MajoritySign {
    /// The sign of the sum.
    #[default]
    Total,
    /// The sign that more of them have.
    Frequency,
}

/// How adapters are combined.
///
/// With a single adapter nothing is pruned or voted on, as in PEFT: the result is the adapter times its weight, cut to
/// `svd_rank` if that is given (PEFT ignores it there).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CombineConfig {
    /// What becomes of the updates.
    pub combination_type: CombinationType,
    /// The rank of the result, for `sum`, `svd` and the `_svd` types.
    pub svd_rank: Option<i64>,
    /// Both factors' numbers are held within this quantile of them and its negative, for `svd` and the `_svd` types.
    pub svd_clamp: Option<f64>,
    /// The share of numbers that stays, for the types that prune.
    pub density: Option<f64>,
    /// How signs are voted on, for the types with `ties` in their name.
    pub majority_sign_method: Option<MajoritySign>,
    /// Where DARE's random numbers begin.
    pub seed: u64,
}

impl CombineConfig {
    /// An error if an option is missing, out of its range, or of no effect.
    pub fn check(&self) -> Result<()> {
        let (kind, way) = (self.combination_type, self.combination_type.way());
        let merge = match way {
            Way::Factors(merge) | Way::Updates(merge) => merge,
            Way::Sum | Way::Cat | Way::Svd => Merge::Linear,
        };
        let refuse = |option, found, hint| Err(Error::Option { option, found, hint });
        let without = |option, hint| refuse(option, format!("given with `{kind}`, which has no use for it"), hint);
        match self.svd_rank {
            Some(_) if matches!(way, Way::Cat | Way::Factors(_)) => {
                return without(
                    "svd_rank",
                    "`sum`, `svd` and the types that end in `_svd` are cut to a rank",
                );
            }
            Some(rank) if rank < 1 => return refuse("svd_rank", format!("rank {rank}"), "a rank is at least 1"),
            _ => {}
        }
        match self.svd_clamp {
            Some(_) if !matches!(way, Way::Svd | Way::Updates(_)) => {
                return without("svd_clamp", "`svd` and the types that end in `_svd` are clamped");
            }
            Some(clamp) if !(clamp > 0.5 && clamp <= 1.0) => {
                let found = format!("{clamp} is no quantile above 0.5");
                return refuse("svd_clamp", found, "0.99 to 1 are usual");
            }
            _ => {}
        }
        match self.density {
            None if merge.prunes() => {
                let found = format!("missing, and `{kind}` prunes");
                return refuse(
                    "density",
                    found,
                    "the share of numbers that stays; 0.2 to 0.7 are usual",
                );
            }
            Some(_) if !merge.prunes() => {
                return without(
                    "density",
                    "types with `ties`, `dare` or `magnitude_prune` in their name prune",
                );
            }
            Some(density) if !(density > 0.0 && density <= 1.0) => {
                let found = format!("{density} is no share above 0 and up to 1");
                return refuse("density", found, "0.2 to 0.7 are usual; 1 keeps everything");
            }
            _ => {}
        }
        if self.majority_sign_method.is_some() && !merge.votes() {
            return without("majority_sign_method", "types with `ties` in their name vote on signs");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_its_name_and_is_found_by_it() {
        for (kind, name) in CombinationType::ALL {
            assert_eq!((kind.name(), name.parse::<CombinationType>().unwrap()), (name, kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), name);
        }
        let error = "ties_svg".parse::<CombinationType>().unwrap_err().to_string();
        assert!(error.contains("`ties_svg`") && error.contains("ties"), "{error}");
    }

    #[test]
    fn options_that_are_missing_wrong_or_of_no_effect_are_refused_by_name() {
        let plain = |combination_type| CombineConfig {
            combination_type,
            ..CombineConfig::default()
        };
        let rows = [
            (plain(Type::Ties), "`density`: missing"),
            (
                CombineConfig {
                    density: Some(0.5),
                    ..plain(Type::Svd)
                },
                "`density`: given with `svd`",
            ),
            (
                CombineConfig {
                    density: Some(0.0),
                    ..plain(Type::DareTies)
                },
                "`density`: 0 is no share",
            ),
            (
                CombineConfig {
                    density: Some(1.5),
                    ..plain(Type::Ties)
                },
                "`density`: 1.5",
            ),
            (
                CombineConfig {
                    density: Some(f64::NAN),
                    ..plain(Type::Ties)
                },
                "`density`: NaN",
            ),
            (
                CombineConfig {
                    svd_rank: Some(0),
                    ..plain(Type::Sum)
                },
                "`svd_rank`: rank 0",
            ),
            (
                CombineConfig {
                    svd_rank: Some(4),
                    ..plain(Type::Cat)
                },
                "`svd_rank`: given with `cat`",
            ),
            (
                CombineConfig {
                    svd_clamp: Some(0.9),
                    ..plain(Type::Sum)
                },
                "`svd_clamp`: given with `sum`",
            ),
            (
                CombineConfig {
                    svd_clamp: Some(0.3),
                    ..plain(Type::Svd)
                },
                "`svd_clamp`: 0.3",
            ),
            (
                CombineConfig {
                    majority_sign_method: Some(MajoritySign::Frequency),
                    ..plain(Type::Linear)
                },
                "`majority_sign_method`: given with `linear`",
            ),
        ];
        for (options, wanted) in rows {
            let error = options.check().unwrap_err().to_string();
            assert!(error.starts_with(wanted) && error.contains("hint: "), "{error}");
        }
        for (kind, _) in CombinationType::ALL {
            let density = (!matches!(kind, Type::Sum | Type::Cat | Type::Svd | Type::Linear)).then_some(0.5);
            CombineConfig { density, ..plain(kind) }.check().unwrap();
        }
    }
}
