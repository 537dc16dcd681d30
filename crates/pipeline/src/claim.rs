//! The verdicts of a study: a condition over the results, and a sentence with the numbers in it.

use crate::expression::{self, Names, Value};
use crate::results::{Measures, Results};
use crate::study::{Arm, Form, Verdict};
use anyhow::{Result, anyhow, bail};
use fetch::nearest;
use std::cell::Cell;
use std::collections::BTreeMap;

/// Values that are made of values.
const DEPTH: usize = 16;

/// One part of the claim.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    /// With numbers as `{expression:form}`: `.2` digits, `%` per cent, `GB` of bytes.
    pub(crate) statement: String,
    pub(crate) holds: String,
}

/// What the expressions of a study's verdicts may name.
#[derive(Clone, Debug)]
pub(crate) struct Claims {
    /// `[value]`: expressions by name.
    pub(crate) values: BTreeMap<String, String>,
    pub(crate) claims: Vec<Claim>,
}

impl Claims {
    /// Whether a value is an expression over what there is.
    pub(crate) fn check(&self, arms: &[Arm], value: &str) -> Result<()> {
        let names = Measured {
            claims: self,
            arms,
            results: &Results::default(),
            depth: Cell::new(0),
        };
        names.name(value).map(drop)
    }

    /// Every part held against the results.
    pub(crate) fn verdicts(&self, arms: &[Arm], results: &Results) -> Result<Vec<Verdict>> {
        let names = Measured {
            claims: self,
            arms,
            results,
            depth: Cell::new(0),
        };
        let verdict = |claim: &Claim| {
            Ok(Verdict {
                statement: sentence(&claim.statement, &names)?,
                holds: expression::truth(&claim.holds, &names)?,
            })
        };
        self.claims.iter().map(verdict).collect()
    }
}

struct Measured<'a> {
    claims: &'a Claims,
    arms: &'a [Arm],
    results: &'a Results,
    depth: Cell<usize>,
}

impl Measured<'_> {
    fn arm<'n>(&self, name: &'n str) -> Result<&'n str> {
        if self.arms.iter().any(|arm| arm.name == name) {
            return Ok(name);
        }
        let known = self.arms.iter().map(|arm| arm.name.as_str());
        Err(unknown(name, "an arm", known))
    }
}

fn unknown<'a>(name: &str, what: &str, known: impl IntoIterator<Item = &'a str>) -> anyhow::Error {
    let hint = nearest(name, known).map_or(String::new(), |near| format!("\nhint: did you mean `{near}`?"));
    anyhow!("`{name}`: wanted the name of {what}, found none of that name{hint}")
}

impl Names for Measured<'_> {
    fn name(&self, name: &str) -> Result<Value> {
        let Some(value) = self.claims.values.get(name) else {
            return Err(unknown(name, "a value", self.claims.values.keys().map(String::as_str)));
        };
        if self.depth.get() > DEPTH {
            bail!("`{name}`: wanted values that end, found one that names itself");
        }
        self.depth.set(self.depth.get() + 1);
        let found = expression::evaluate(value, self);
        self.depth.set(self.depth.get() - 1);
        found
    }

    fn call(&self, function: &str, arguments: &[Value]) -> Result<Value> {
        match (function, arguments) {
            ("mean", [Value::Text(arm), Value::Text(key)]) => Ok(Value::Number(self.results.mean(self.arm(arm)?, key))),
            ("clearly_below", [Value::Text(arm), Value::Text(other), Value::Text(key)]) => Ok(Value::Truth(
                self.results.is_clearly_below(self.arm(arm)?, self.arm(other)?, key),
            )),
            _ => bail!(
                "`{function}`: wanted mean('ARM', 'MEASURE'), clearly_below('ARM', 'OTHER', 'MEASURE'), abs, ln, min or max"
            ),
        }
    }
}

/// The statement with its numbers.
fn sentence(statement: &str, names: &dyn Names) -> Result<String> {
    let (mut text, mut rest) = (String::new(), statement);
    while let Some((before, behind)) = rest.split_once('{') {
        text += before;
        let Some((inner, after)) = behind.split_once('}') else {
            bail!("`{statement}`: wanted a closing brace, found none");
        };
        let Some((value, form)) = inner.rsplit_once(':') else {
            bail!("`{{{inner}}}`: wanted `{{expression:form}}`, found no form");
        };
        let number = expression::number(value, names)?;
        let shown = match form {
            "%" => Form::Share.show(number),
            "GB" => format!("{:.2}", number / 1e9),
            digits => {
                let digits = digits.strip_prefix('.').and_then(|digits| digits.parse().ok());
                match digits {
                    Some(digits) => Form::Digits(digits).show(number),
                    None => bail!("`{{{inner}}}`: wanted the form `.2`, `%` or `GB`, found `{form}`"),
                }
            }
        };
        text += &shown;
        rest = after;
    }
    Ok(text + rest)
}

/// The measures of one cell, for those that are made of them.
pub(crate) struct OfCell<'a>(pub(crate) &'a Measures);

impl Names for OfCell<'_> {
    fn name(&self, name: &str) -> Result<Value> {
        bail!("`{name}`: wanted measure('KEY')")
    }

    fn call(&self, function: &str, arguments: &[Value]) -> Result<Value> {
        match (function, arguments) {
            ("measure", [Value::Text(key)]) => Ok(Value::Number(self.0.get(key).copied().unwrap_or(f64::NAN))),
            _ => bail!("`{function}`: wanted measure('KEY'), abs, ln, min or max"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(statement: &str, holds: &str) -> Result<Vec<Verdict>> {
        let mut results = Results::default();
        for (arm, value) in [("one", 0.25), ("other", 0.5)] {
            results.add(arm, Measures::from([("k".to_owned(), value)]));
        }
        let values = [
            ("one", "mean('one', 'k')"),
            ("twice", "2 * one"),
            ("endless", "endless + 1"),
        ];
        let claims = Claims {
            values: values.map(|(name, text)| (name.to_owned(), text.to_owned())).into(),
            claims: vec![Claim {
                statement: statement.to_owned(),
                holds: holds.to_owned(),
            }],
        };
        let arms = ["one", "other"].map(|name| Arm::new(name, Vec::new()));
        claims.verdicts(&arms, &results)
    }

    #[test]
    fn a_claim_is_held_against_the_results_and_told_with_its_numbers() {
        let found = verdicts("{twice:.3}, {one:%}, {1e9 * one:GB} GB", "twice <= mean('other', 'k')").unwrap();
        assert_eq!(found[0].statement, "0.500, 25.0 %, 0.25 GB");
        assert!(found[0].holds);
        assert!(verdicts("", "clearly_below('one', 'other', 'k')").unwrap()[0].holds);
        assert!(!verdicts("", "mean('one', 'nothing') < 1").unwrap()[0].holds);
    }

    #[test]
    fn what_is_wrong_with_a_claim_is_told() {
        for (statement, holds, wanted) in [
            ("", "mean('othr', 'k') < 1", "did you mean `other`?"),
            ("", "twic < 1", "did you mean `twice`?"),
            ("", "endless < 1", "names itself"),
            ("", "one", "wanted a comparison"),
            ("{one}", "one < 1", "found no form"),
            ("{one:x}", "one < 1", "found `x`"),
            ("{one:.2", "one < 1", "closing brace"),
            ("", "maen('one', 'k') < 1", "`maen`: wanted mean("),
        ] {
            let error = format!("{:#}", verdicts(statement, holds).unwrap_err());
            assert!(error.contains(wanted), "{error}");
        }
    }
}
