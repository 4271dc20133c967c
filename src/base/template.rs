//! Templates as operators write them: text with names in braces, where `{{` and `}}` stand for braces.
//!
//! What a name stands for is the affair of whoever knows the names: fields of the access log, facts of a request.

/// A part of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part<N> {
    /// Text as it is.
    Text(String),
    /// What stands in braces.
    Name(N),
}

/// What is wrong with a template.
#[derive(Debug, PartialEq, Eq)]
pub enum Fault<E> {
    /// A brace without its other half.
    LoneBrace(char),
    /// A name that is not known.
    Name(E),
}

/// The parts of a template whose names `known` reads.
///
/// # Errors
/// The first [`Fault`].
pub fn parse<N, E>(template: &str, known: impl Fn(&str) -> Result<N, E>) -> Result<Vec<Part<N>>, Fault<E>> {
    let (mut parts, mut text, mut rest) = (Vec::new(), String::new(), template);
    while let Some(at) = rest.find(['{', '}']) {
        let brace = if rest[at..].starts_with('{') { '{' } else { '}' };
        text.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            text.push(brace);
            rest = after;
            continue;
        }
        let closed = rest.split_once('}').filter(|_| brace == '{');
        let (name, after) = closed.ok_or(Fault::LoneBrace(brace))?;
        if !text.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut text)));
        }
        parts.push(Part::Name(known(name).map_err(Fault::Name)?));
        rest = after;
    }
    text.push_str(rest);
    if !text.is_empty() {
        parts.push(Part::Text(text));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digits(name: &str) -> Result<u32, String> {
        name.parse().map_err(|_| name.to_owned())
    }

    #[test]
    fn a_template_is_text_and_names() {
        let text = |text: &str| Part::Text(text.to_owned());
        assert_eq!(parse("", digits), Ok(vec![]));
        assert_eq!(parse("a{1}{2}b", digits), Ok(vec![text("a"), Part::Name(1), Part::Name(2), text("b")]));
        assert_eq!(parse("{{{1}}}{{", digits), Ok(vec![text("{"), Part::Name(1), text("}{")]));
        assert_eq!(parse("{x}", digits), Err(Fault::Name("x".to_owned())));
        for (lone, brace) in [("{", '{'), ("a}b", '}'), ("{1", '{'), ("{1}}", '}')] {
            assert_eq!(parse(lone, digits), Err(Fault::LoneBrace(brace)), "{lone}");
        }
    }

    proptest! {
        #[test]
        fn text_whose_braces_are_doubled_is_itself(text in "[a{}é ]{0,12}") {
            let parts = parse(&text.replace('{', "{{").replace('}', "}}"), digits);
            let expected = if text.is_empty() { vec![] } else { vec![Part::Text(text)] };
            prop_assert_eq!(parts, Ok(expected));
        }
    }
}
