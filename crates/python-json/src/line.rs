//! Where in a file a key stands, for messages.

/// The line, from 1, of the key that `path` leads to through nested objects; none if it is not there or not JSON.
///
/// ```
/// let text = b"{\n \"a\": {\"size\": 1},\n \"b\": {\n  \"size\": 2}}";
/// assert_eq!(python_json::line_of(text, &["b", "size"]), Some(4));
/// ```
pub fn line_of(text: &[u8], path: &[&str]) -> Option<usize> {
    // The keys that lead to where the scanner is; none for an array or an object whose key is to come.
    let mut open: Vec<Option<String>> = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < text.len() {
        match text[at] {
            b'\n' => line += 1,
            b'{' | b'[' => open.push(None),
            b'}' | b']' => drop(open.pop()),
            b',' => {
                if let Some(key) = open.last_mut() {
                    *key = None;
                }
            }
            b'"' => {
                let end = end_of_text(text, at)?;
                let after = text[end..].iter().find(|byte| !byte.is_ascii_whitespace());
                if after == Some(&b':') {
                    let key = serde_json::from_slice::<String>(&text[at..end]).ok()?;
                    if let Some(place) = open.last_mut() {
                        *place = Some(key);
                    }
                    let found = open.iter().map(Option::as_deref);
                    if found.eq(path.iter().map(|key| Some(*key))) {
                        return Some(line);
                    }
                }
                at = end;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// The byte behind the text that begins at `start`.
fn end_of_text(text: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        match text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_at_its_own_depth() {
        let text =
            b"{\n\"x\": \"size\",\n\"list\": [{\n\"size\": 1}],\n\"in\": {\"size\": 2,\n\"a\\\"b\": 3},\n\"size\": 4}";
        assert_eq!(line_of(text, &["size"]), Some(7));
        assert_eq!(line_of(text, &["in", "size"]), Some(5));
        assert_eq!(line_of(text, &["in", "a\"b"]), Some(6));
        assert_eq!(line_of(text, &["nowhere"]), None);
    }
}
