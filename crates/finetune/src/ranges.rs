//! Ranges of the numbers that flags take: a value outside its range is wrong usage, which ends with exit code 2.
//!
//! Each function makes a `value_parser` of clap, whose message names the flag and the value that was found.

use std::ops::RangeBounds;
use std::str::FromStr;

/// A number from `least` to `most`, both allowed.
pub fn between(least: f64, most: f64) -> impl Fn(&str) -> Result<f64, String> + Clone {
    number(least..=most, format!("a number from {least} to {most}"))
}

/// A finite number of at least `least`.
pub fn at_least(least: f64) -> impl Fn(&str) -> Result<f64, String> + Clone {
    number(least.., format!("a number of at least {least}"))
}

/// A finite number above `bound`.
pub fn above(bound: f64) -> impl Fn(&str) -> Result<f64, String> + Clone {
    let bounds = (std::ops::Bound::Excluded(bound), std::ops::Bound::Unbounded);
    number(bounds, format!("a number above {bound}"))
}

/// A number above 0, at most 1.
pub fn share_above_zero() -> impl Fn(&str) -> Result<f64, String> + Clone {
    let bounds = (std::ops::Bound::Excluded(0.0), std::ops::Bound::Included(1.0));
    number(bounds, "a number above 0, at most 1".into())
}

/// A number above 0 and below 1.
pub fn inner_share() -> impl Fn(&str) -> Result<f64, String> + Clone {
    let bounds = (std::ops::Bound::Excluded(0.0), std::ops::Bound::Excluded(1.0));
    number(bounds, "a number above 0, below 1".into())
}

/// A whole number of at least `least`.
pub fn count(least: usize) -> impl Fn(&str) -> Result<usize, String> + Clone {
    move |text: &str| {
        let wanted = || format!("wanted a whole number of at least {least}");
        match usize::from_str(text) {
            Ok(found) if found >= least => Ok(found),
            _ => Err(wanted()),
        }
    }
}

fn number<B: RangeBounds<f64> + Clone>(bounds: B, wanted: String) -> impl Fn(&str) -> Result<f64, String> + Clone {
    move |text: &str| match f64::from_str(text) {
        Ok(found) if found.is_finite() && bounds.contains(&found) => Ok(found),
        _ => Err(format!("wanted {wanted}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_a_range_belong_to_it_where_its_message_says_so() {
        for (text, is_right) in [
            ("0", true),
            ("1", true),
            ("0.5", true),
            ("-0.1", false),
            ("1.01", false),
            ("NaN", false),
        ] {
            assert_eq!(between(0.0, 1.0)(text).is_ok(), is_right, "{text}");
        }
        for (text, is_right) in [("0", false), ("1e-9", true), ("1", true), ("2", false)] {
            assert_eq!(share_above_zero()(text).is_ok(), is_right, "{text}");
        }
        for (text, is_right) in [("0", true), ("inf", false), ("-1", false), ("7.5", true), ("x", false)] {
            assert_eq!(at_least(0.0)(text).is_ok(), is_right, "{text}");
        }
        for (text, is_right) in [("0", false), ("0.1", true)] {
            assert_eq!(above(0.0)(text).is_ok(), is_right, "{text}");
        }
        for (text, is_right) in [("0", false), ("1", true), ("1.5", false), ("-1", false)] {
            assert_eq!(count(1)(text).is_ok(), is_right, "{text}");
        }
        assert!(inner_share()("1").is_err() && inner_share()("0.99").is_ok());
    }

    #[test]
    fn a_message_says_what_was_wanted() {
        assert_eq!(between(0.0, 1.0)("2").unwrap_err(), "wanted a number from 0 to 1");
        assert_eq!(count(1)("0").unwrap_err(), "wanted a whole number of at least 1");
    }
}
