//! What chat templates expect of Python and Jinja and `MiniJinja` does differently: values' printing, methods, tests.

use std::fmt::Write as _;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Tuple, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value};

use super::json;

/// Makes the environment behave as the one in which Transformers renders.
pub(super) fn register(env: &mut Environment<'static>) {
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.expect("the delimiters are the default ones"));
    env.set_unknown_method_callback(method);
    env.set_formatter(|out: &mut Output, _: &mut State, value: &Value| {
        out.write_str(&to_str(value)).map_err(Error::from)
    });
    env.add_filter("tojson", |value: Value, kwargs: Kwargs| json::tojson(&value, &kwargs));
    env.add_filter("string", |value: Value| to_str(&value));
    env.add_test("iterable", |value: Value| {
        value.is_undefined() || (!value.is_none() && value.try_iter().is_ok())
    });
    env.add_test("sequence", |value: Value| {
        value.is_undefined() || matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::String)
    });
    env.add_function("raise_exception", |message: Value| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, to_str(&message)))
    });
}

/// Python's `str()`.
pub(super) fn to_str(value: &Value) -> String {
    match value.kind() {
        ValueKind::String => value.as_str().unwrap_or_default().to_owned(),
        ValueKind::Undefined => String::new(),
        _ => {
            let mut out = String::new();
            repr(&mut out, value);
            out
        }
    }
}

fn repr(out: &mut String, value: &Value) {
    match value.kind() {
        ValueKind::None => out.push_str("None"),
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number if !value.is_integer() => match f64::try_from(value.clone()) {
            Ok(float) => out.push_str(&json::python_float(float, "nan", "inf")),
            Err(_) => out.push_str(&value.to_string()),
        },
        ValueKind::String => repr_str(out, value.as_str().unwrap_or_default()),
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter().into_iter().flatten().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                repr(out, &key);
                out.push_str(": ");
                repr(out, &value.get_item(&key).unwrap_or_default());
            }
            out.push('}');
        }
        ValueKind::Seq => {
            let tuple = value.downcast_object_ref::<Tuple>().is_some();
            let items: Vec<Value> = value.try_iter().into_iter().flatten().collect();
            out.push(if tuple { '(' } else { '[' });
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                repr(out, item);
            }
            out.push_str(match (tuple, items.len()) {
                (true, 1) => ",)",
                (true, _) => ")",
                (false, _) => "]",
            });
        }
        _ => out.push_str(&value.to_string()),
    }
}

fn repr_str(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push(quote);
}

/// The string methods that the contributed set lacks, then that set.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        let argument = |i: usize| args.get(i).and_then(Value::as_str);
        let three = |found: Option<(&str, &str, &str)>, otherwise: [&str; 3]| {
            let (a, b, c) = found.unwrap_or((otherwise[0], otherwise[1], otherwise[2]));
            Value::from(Tuple::new(vec![a.into(), b.into(), c.into()]))
        };
        match (name, argument(0)) {
            ("removeprefix", Some(prefix)) => return Ok(text.strip_prefix(prefix).unwrap_or(text).into()),
            ("removesuffix", Some(suffix)) => return Ok(text.strip_suffix(suffix).unwrap_or(text).into()),
            ("partition", Some(by)) => {
                return Ok(three(text.split_once(by).map(|(a, b)| (a, by, b)), [text, "", ""]));
            }
            ("rpartition", Some(by)) => {
                return Ok(three(text.rsplit_once(by).map(|(a, b)| (a, by, b)), ["", "", text]));
            }
            ("rsplit", Some(by)) => {
                let most = args
                    .get(1)
                    .and_then(Value::as_i64)
                    .and_then(|n| usize::try_from(n).ok());
                let mut parts: Vec<&str> = match most {
                    Some(most) => text.rsplitn(most + 1, by).collect(),
                    None => text.rsplit(by).collect(),
                };
                parts.reverse();
                return Ok(parts.into_iter().map(Value::from).collect());
            }
            ("index", Some(part)) => {
                return match text.find(part) {
                    Some(at) => Ok(text[..at].chars().count().into()),
                    None => Err(Error::new(ErrorKind::InvalidOperation, "substring not found")),
                };
            }
            _ => {}
        }
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
}
