//! The arithmetic of a study's file: numbers, names, comparisons, and a few functions.
//!
//! `expression = comparison { "and" comparison }`, `comparison = sum [ ("<" | "<=" | ">" | ">=") sum ]`, then `+ -`, `* /`,
//! a leading `-`, and brackets; an atom is a number, a name, or `name(argument, …)` whose arguments are expressions or texts
//! in single quotes.

use anyhow::{Result, bail, ensure};

/// What an expression gives.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Number(f64),
    Truth(bool),
    Text(String),
}

/// What names and functions mean where an expression stands.
pub(crate) trait Names {
    fn name(&self, name: &str) -> Result<Value>;
    fn call(&self, function: &str, arguments: &[Value]) -> Result<Value>;
}

/// The value of an expression.
pub(crate) fn evaluate(text: &str, names: &dyn Names) -> Result<Value> {
    let mut reader = Reader { rest: text, names };
    let value = reader.all()?;
    let rest = reader.rest.trim_start();
    ensure!(rest.is_empty(), "`{text}`: wanted an operator, found `{rest}`");
    Ok(value)
}

/// The value of an expression that must be a number.
pub(crate) fn number(text: &str, names: &dyn Names) -> Result<f64> {
    match evaluate(text, names)? {
        Value::Number(number) => Ok(number),
        other => bail!("`{text}`: wanted a number, found {other:?}"),
    }
}

/// The value of an expression that must be true or false.
pub(crate) fn truth(text: &str, names: &dyn Names) -> Result<bool> {
    match evaluate(text, names)? {
        Value::Truth(truth) => Ok(truth),
        other => bail!("`{text}`: wanted a comparison, found {other:?}"),
    }
}

/// The functions of plain numbers; none if it is another.
pub(crate) fn arithmetic(function: &str, arguments: &[Value]) -> Option<f64> {
    match (function, arguments) {
        ("abs", [Value::Number(x)]) => Some(x.abs()),
        ("ln", [Value::Number(x)]) => Some(x.ln()),
        ("min", [Value::Number(x), Value::Number(y)]) => Some(x.min(*y)),
        ("max", [Value::Number(x), Value::Number(y)]) => Some(x.max(*y)),
        _ => None,
    }
}

/// Whether two numbers stand in some order.
type Compare = fn(f64, f64) -> bool;

struct Reader<'a> {
    rest: &'a str,
    names: &'a dyn Names,
}

impl<'a> Reader<'a> {
    fn all(&mut self) -> Result<Value> {
        let mut value = self.comparison()?;
        while self.takes_word("and") {
            let right = self.comparison()?;
            value = match (value, right) {
                (Value::Truth(left), Value::Truth(right)) => Value::Truth(left && right),
                (left, right) => bail!("`and`: wanted comparisons on both sides, found {left:?} and {right:?}"),
            };
        }
        Ok(value)
    }

    fn comparison(&mut self) -> Result<Value> {
        let left = self.sum()?;
        let comparisons: [(&str, Compare); 4] = [
            ("<=", |left, right| left <= right),
            (">=", |left, right| left >= right),
            ("<", |left, right| left < right),
            (">", |left, right| left > right),
        ];
        for (sign, compare) in comparisons {
            if self.takes(sign) {
                let (left, right) = (self.known(left)?, self.sum()?);
                return Ok(Value::Truth(compare(left, self.known(right)?)));
            }
        }
        Ok(left)
    }

    fn sum(&mut self) -> Result<Value> {
        let mut value = self.product()?;
        loop {
            let sign = if self.takes("+") {
                1.0
            } else if self.takes("-") {
                -1.0
            } else {
                return Ok(value);
            };
            let (left, right) = (self.known(value)?, self.product()?);
            value = Value::Number(left + sign * self.known(right)?);
        }
    }

    fn product(&mut self) -> Result<Value> {
        let mut value = self.signed()?;
        loop {
            let divides = if self.takes("*") {
                false
            } else if self.takes("/") {
                true
            } else {
                return Ok(value);
            };
            let left = self.known(value)?;
            let right = self.signed()?;
            let right = self.known(right)?;
            value = Value::Number(if divides { left / right } else { left * right });
        }
    }

    fn signed(&mut self) -> Result<Value> {
        if self.takes("-") {
            let value = self.signed()?;
            return Ok(Value::Number(-self.known(value)?));
        }
        self.atom()
    }

    fn atom(&mut self) -> Result<Value> {
        if self.takes("(") {
            let value = self.all()?;
            ensure!(self.takes(")"), "wanted `)`, found `{}`", self.rest);
            return Ok(value);
        }
        if self.takes("'") {
            let Some((text, rest)) = self.rest.split_once('\'') else {
                bail!("`'{}`: wanted a closing quote, found none", self.rest);
            };
            self.rest = rest;
            return Ok(Value::Text(text.to_owned()));
        }
        let first = self.rest.chars().next();
        if first.is_some_and(|c| c.is_ascii_digit()) {
            return self.digits();
        }
        let name = self.word();
        ensure!(
            !name.is_empty(),
            "wanted a number, a name or `(`, found `{}`",
            self.rest
        );
        self.rest = &self.rest[name.len()..];
        if !self.takes("(") {
            return self.names.name(name);
        }
        let mut arguments = Vec::new();
        while !self.takes(")") {
            arguments.push(self.all()?);
            if !self.takes(",") {
                ensure!(self.takes(")"), "`{name}(`: wanted `,` or `)`, found `{}`", self.rest);
                break;
            }
        }
        match arithmetic(name, &arguments) {
            Some(number) => Ok(Value::Number(number)),
            None => self.names.call(name, &arguments),
        }
    }

    fn digits(&mut self) -> Result<Value> {
        let mut before = ' ';
        let belongs = |c: char| {
            let exponent = matches!(before, 'e' | 'E') && matches!(c, '-' | '+');
            before = c;
            !(c.is_ascii_digit() || matches!(c, '.' | '_' | 'e' | 'E') || exponent)
        };
        let end = self.rest.find(belongs).unwrap_or(self.rest.len());
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest;
        match text.replace('_', "").parse() {
            Ok(number) => Ok(Value::Number(number)),
            Err(_) => bail!("`{text}`: wanted a number"),
        }
    }

    fn known(&self, value: Value) -> Result<f64> {
        match value {
            Value::Number(number) => Ok(number),
            other => bail!("wanted a number before `{}`, found {other:?}", self.rest),
        }
    }

    fn word(&self) -> &'a str {
        let belongs = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = self.rest.find(|c| !belongs(c)).unwrap_or(self.rest.len());
        &self.rest[..end]
    }

    fn takes_word(&mut self, word: &str) -> bool {
        self.rest = self.rest.trim_start();
        self.word() == word && self.takes(word)
    }

    fn takes(&mut self, sign: &str) -> bool {
        self.rest = self.rest.trim_start();
        match self.rest.strip_prefix(sign) {
            Some(rest) => {
                self.rest = rest.trim_start_matches(|c: char| c.is_whitespace() && sign != "'");
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Two;

    impl Names for Two {
        fn name(&self, name: &str) -> Result<Value> {
            match name {
                "two" => Ok(Value::Number(2.0)),
                "unmeasured" => Ok(Value::Number(f64::NAN)),
                _ => bail!("`{name}`: no such name"),
            }
        }

        fn call(&self, function: &str, arguments: &[Value]) -> Result<Value> {
            match (function, arguments) {
                ("length", [Value::Text(text)]) => Ok(Value::Number(text.len() as f64)),
                _ => bail!("`{function}`: no such function"),
            }
        }
    }

    #[test]
    fn numbers_are_reckoned_as_on_paper() {
        for (text, wanted) in [
            ("1 + two * 3", 7.0),
            ("(1 + two) * 3", 9.0),
            ("8 / two / two", 2.0),
            ("5 - 1 - 1", 3.0),
            ("-two * 3", -6.0),
            ("2e-3 * 1_000", 2.0),
            ("max(30, 6 * two)", 30.0),
            ("min(unmeasured, 4)", 4.0),
            ("abs(two - 5)", 3.0),
            ("length(' a, b ')", 6.0),
            ("ln(1)", 0.0),
        ] {
            assert_eq!(number(text, &Two).unwrap(), wanted, "{text}");
        }
    }

    #[test]
    fn comparisons_hold_or_not_and_never_of_what_was_not_measured() {
        for (text, wanted) in [
            ("two < 3", true),
            ("two >= 3", false),
            ("two <= 2 and 3 > two", true),
            ("two > 1 and (two > 5)", false),
            ("unmeasured < 3", false),
            ("unmeasured >= 3", false),
        ] {
            assert_eq!(truth(text, &Two).unwrap(), wanted, "{text}");
        }
    }

    #[test]
    fn what_is_no_expression_is_told() {
        for (text, wanted) in [
            ("two three", "wanted an operator, found `three`"),
            ("(two", "wanted `)`"),
            ("tow", "`tow`: no such name"),
            ("two + (1 < 2)", "wanted a number"),
            ("two and two", "`and`: wanted comparisons"),
            ("length('a", "closing quote"),
            ("1.2.3", "`1.2.3`"),
            ("", "wanted a number, a name"),
        ] {
            let error = format!("{:#}", evaluate(text, &Two).unwrap_err());
            assert!(error.contains(wanted), "{text}: {error}");
        }
        assert!(truth("two", &Two).is_err() && number("two < 3", &Two).is_err());
    }
}
