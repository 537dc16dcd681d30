//! The `{% generation %}` tag, which `MiniJinja` lacks: rewritten to a `with` block, which has a scope of its own too.
//!
//! Rendered for training, the block's output also goes through a filter that puts it between two Unicode
//! noncharacters, which are cut out again.

use std::ops::Range;
use std::sync::LazyLock;

use minijinja::Environment;
use regex::Regex;

const START: char = '\u{FDD0}';
const END: char = '\u{FDD1}';

static TAG: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").expect("the pattern is constant and well-formed")
});

/// What the rewritten tags do with what stands between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tags {
    /// Nothing.
    Plain,
    /// Mark it.
    Marked,
}

/// Whether the source has the tag anywhere.
pub(super) fn has_tags(source: &str) -> bool {
    TAG.is_match(source)
}

/// The source with blocks that `MiniJinja` knows in the tags' place.
pub(super) fn rewrite(source: &str, tags: Tags) -> String {
    TAG.replace_all(source, |found: &regex::Captures<'_>| {
        let (left, right) = (&found[1], &found[3]);
        match (found.get(2).is_some(), tags) {
            (false, Tags::Plain) => format!("{{%{left} with {right}%}}"),
            (true, Tags::Plain) => format!("{{%{left} endwith {right}%}}"),
            (false, Tags::Marked) => format!("{{%{left} with %}}{{% filter mark_generated {right}%}}"),
            (true, Tags::Marked) => format!("{{%{left} endfilter %}}{{% endwith {right}%}}"),
        }
    })
    .into_owned()
}

/// Adds the filter that [`rewrite`] names.
pub(super) fn register(env: &mut Environment<'static>) {
    env.add_filter("mark_generated", |text: String| format!("{START}{text}{END}"));
}

/// The text without its marks, and the byte ranges that they enclosed; `None` if the marks do not pair up.
pub(super) fn split_marks(marked: &str) -> Option<(String, Vec<Range<usize>>)> {
    let mut text = String::with_capacity(marked.len());
    let mut spans = Vec::new();
    let mut open = None;
    for c in marked.chars() {
        match (c, open) {
            (START, None) => open = Some(text.len()),
            (END, Some(start)) => {
                spans.push(start..text.len());
                open = None;
            }
            (START | END, _) => return None,
            _ => text.push(c),
        }
    }
    open.is_none().then_some((text, spans))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_keep_their_whitespace_control() {
        let source = "{%- generation %}a{% endgeneration -%}";
        assert_eq!(rewrite(source, Tags::Plain), "{%- with %}a{% endwith -%}");
        let marked = "{%- with %}{% filter mark_generated %}a{% endfilter %}{% endwith -%}";
        assert_eq!(rewrite(source, Tags::Marked), marked);
    }

    #[test]
    fn marks_that_do_not_pair_up_are_refused() {
        assert_eq!(
            split_marks("a\u{FDD0}é\u{FDD1}b"),
            Some(("aéb".to_owned(), std::iter::once(1..3).collect()))
        );
        for bad in ["\u{FDD0}", "\u{FDD1}", "\u{FDD0}\u{FDD0}\u{FDD1}\u{FDD1}"] {
            assert_eq!(split_marks(bad), None);
        }
    }
}
