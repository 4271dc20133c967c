//! `${NAME}` and `${NAME:-default}` in values.
//!
//! Variables are filled in after the text was parsed, so that the environment can never add a key, a list item or a
//! comment.

use super::node::{Marks, Node, Scalar, Style, Value};
use crate::config::diagnostic::{Diagnostic, Diagnostics};

/// The longest value after variables are filled in, in bytes.
const MAX_VALUE: usize = 1024 * 1024;

/// Where variables come from.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Fills in the variables of every value below `node`; faults go to `out`.
pub(super) fn fill(node: &mut Node, environment: Environment<'_>, marks: &Marks, out: &mut Diagnostics) {
    match &mut node.value {
        Value::Scalar(scalar) if scalar.text.contains('$') => match substitute(&scalar.text, environment) {
            Ok(text) => *scalar = Scalar { style: filled(scalar), text },
            Err(Fault { message, help }) => {
                out.push(Diagnostic::error(message).help(help).at(marks.place(node.at)));
                node.value = Value::Faulty;
            }
        },
        Value::Scalar(_) | Value::Faulty => {}
        Value::Sequence(items) => items.iter_mut().for_each(|item| fill(item, environment, marks, out)),
        Value::Mapping(entries) => {
            entries.iter_mut().for_each(|entry| fill(&mut entry.value, environment, marks, out));
        }
    }
}

fn filled(scalar: &Scalar) -> Style {
    match scalar.style {
        Style::Plain => Style::Plain,
        Style::Quoted | Style::Filled if scalar.text.contains("${") => Style::Filled,
        Style::Quoted | Style::Filled => Style::Quoted,
    }
}

struct Fault {
    message: String,
    help: String,
}

fn substitute(text: &str, environment: Environment<'_>) -> Result<String, Fault> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let end = after.find('}').ok_or_else(|| Fault {
                message: format!("`${{{after}` has no end"),
                help: "write `${NAME}`, or `$$` for a dollar".to_owned(),
            })?;
            out.push_str(&value_of(&after[..end], environment)?);
            rest = &after[end + 1..];
        } else {
            out.push('$');
        }
        if out.len() > MAX_VALUE {
            return Err(Fault {
                message: "the value is longer than 1MiB".to_owned(),
                help: "use shorter variables".to_owned(),
            });
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn value_of(inside: &str, environment: Environment<'_>) -> Result<String, Fault> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && name.bytes().next().is_some_and(|first| !first.is_ascii_digit());
    if !is_name {
        return Err(Fault {
            message: format!("`${{{inside}}}` is not a variable"),
            help: "write `${NAME}` or `${NAME:-default}`, or `$$` for a dollar".to_owned(),
        });
    }
    if default.is_some_and(|default| default.contains("${")) {
        return Err(Fault {
            message: format!("`${{{inside}}}` holds another variable"),
            help: "write one variable, or a default without variables".to_owned(),
        });
    }
    // As in a shell, the default of `:-` also stands for a variable that is empty.
    match (environment(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(Fault {
            message: format!("the variable `{name}` is not set"),
            help: format!("set it, or write `${{{name}:-default}}`"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn environment(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("web".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn variables_defaults_and_dollars_are_filled_in() {
        for (text, expected) in [
            ("${HOST}:80", "web:80"),
            ("${PORT:-80}", "80"),
            ("${EMPTY:-x}", "x"),
            ("[${EMPTY}]", "[]"),
            ("$$HOST $ $5 $", "$HOST $ $5 $"),
            ("$${HOST}", "${HOST}"),
            ("^/u/[0-9]+$", "^/u/[0-9]+$"),
        ] {
            assert_eq!(substitute(text, &environment).ok().as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn a_missing_or_malformed_variable_is_named() {
        for (text, message) in [
            ("${NOPE}", "the variable `NOPE` is not set"),
            ("${}", "`${}` is not a variable"),
            ("${1A}", "`${1A}` is not a variable"),
            ("${HOST", "`${HOST` has no end"),
        ] {
            assert_eq!(substitute(text, &environment).err().map(|fault| fault.message).as_deref(), Some(message));
        }
    }

    proptest! {
        #[test]
        fn a_text_without_dollars_stays(text in "[^$]*") {
            prop_assert_eq!(substitute(&text, &environment).ok(), Some(text));
        }
    }
}
