//! Text inside of HTML and SVG.

/// A text as HTML and XML have it, between tags and in quotes; control characters are spaces.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn tags_and_quotes_are_text() {
        assert_eq!(super::escaped("a<b>\"&\n"), "a&lt;b&gt;&quot;&amp; ");
    }
}
