//! Forms with files (`multipart/form-data`, RFC 7578), piece by piece as they arrive.
//!
//! Contract: what is kept is a piece of the body and a delimiter, or a head of at most 8 KiB,
//! whatever is sent. Names of files are not looked at, nor is what a client says that they are.

use std::collections::VecDeque;

/// Bytes of the head of a part.
const HEAD: usize = 8 << 10;
/// Characters of a boundary.
const BOUNDARY: usize = 70;

/// What comes next in a form.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// A field begins.
    Field {
        /// Its name.
        name: String,
        /// Whether it is a file.
        file: bool,
        /// Whether it is a file without a name, as browsers send where none was chosen.
        unnamed: bool,
    },
    /// More of the field's value.
    Data(Vec<u8>),
    /// The form is complete.
    End,
}

/// Why a form cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// Where the parser is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Preamble,
    Delimiter,
    Head,
    Value,
    Epilogue,
}

/// Reads a form.
pub struct Parser {
    /// The line break and the line between parts.
    delimiter: Vec<u8>,
    buffer: VecDeque<u8>,
    at: At,
}

impl Parser {
    /// A parser for the form with this `Content-Type`; none if that is no form's.
    pub fn new(content_type: &str) -> Option<Self> {
        let (kind, rest) = content_type.split_once(';')?;
        if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
            return None;
        }
        let (_, boundary) =
            parameters(rest).ok()?.into_iter().find(|(key, _)| key == "boundary")?;
        if boundary.is_empty() || boundary.len() > BOUNDARY || !boundary.is_ascii() {
            return None;
        }
        let delimiter = [b"\r\n--", boundary.as_bytes()].concat();
        // The first delimiter may be at the very beginning, without its line break.
        Some(Self { delimiter, buffer: VecDeque::from(*b"\r\n"), at: At::Preamble })
    }

    /// Takes more of the body.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend(bytes);
    }

    /// What comes next, as far as it has arrived.
    ///
    /// # Errors
    /// What is wrong with the form.
    pub fn next(&mut self) -> Result<Option<Piece>, Malformed> {
        loop {
            match self.at {
                At::Preamble => match self.find() {
                    Some(place) => {
                        self.buffer.drain(..place + self.delimiter.len());
                        self.at = At::Delimiter;
                    }
                    None => {
                        let most = self.buffer.len().saturating_sub(self.delimiter.len() - 1);
                        self.buffer.drain(..most);
                        return Ok(None);
                    }
                },
                At::Delimiter => match self.buffer.make_contiguous() {
                    [b'-', b'-', ..] => {
                        self.at = At::Epilogue;
                        self.buffer.clear();
                        return Ok(Some(Piece::End));
                    }
                    [b'\r', b'\n', ..] => {
                        self.buffer.drain(..2);
                        self.at = At::Head;
                    }
                    [] | [b'-' | b'\r'] => return Ok(None),
                    _ => return Err(Malformed("a boundary is not the end of its line")),
                },
                At::Head => {
                    let bytes = self.buffer.make_contiguous();
                    let Some(end) = position(bytes, b"\r\n\r\n") else {
                        return match bytes.len() > HEAD {
                            true => Err(Malformed("the head of a field is too long")),
                            false => Ok(None),
                        };
                    };
                    if end > HEAD {
                        return Err(Malformed("the head of a field is too long"));
                    }
                    let field = head(&bytes[..end])?;
                    self.buffer.drain(..end + 4);
                    self.at = At::Value;
                    return Ok(Some(field));
                }
                At::Value => {
                    let (ready, ended) = match self.find() {
                        Some(place) => (place, true),
                        None => (self.buffer.len().saturating_sub(self.delimiter.len() - 1), false),
                    };
                    if ready > 0 {
                        return Ok(Some(Piece::Data(self.buffer.drain(..ready).collect())));
                    }
                    if !ended {
                        return Ok(None);
                    }
                    self.buffer.drain(..self.delimiter.len());
                    self.at = At::Delimiter;
                }
                At::Epilogue => {
                    self.buffer.clear();
                    return Ok(None);
                }
            }
        }
    }

    fn find(&mut self) -> Option<usize> {
        position(self.buffer.make_contiguous(), &self.delimiter)
    }
}

/// Where `what` begins in `bytes`.
fn position(bytes: &[u8], what: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|byte| *byte == what[0]) {
        from += at;
        if bytes[from..].starts_with(what) {
            return Some(from);
        }
        from += 1;
    }
    None
}

/// The field that the head of a part is about.
fn head(bytes: &[u8]) -> Result<Piece, Malformed> {
    let text = std::str::from_utf8(bytes).map_err(|_| Malformed("a name is not UTF-8"))?;
    let disposition = text.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.trim().eq_ignore_ascii_case("content-disposition").then_some(value.trim())
    });
    let about = disposition.and_then(|value| value.split_once(';'));
    let Some((_, rest)) = about.filter(|(kind, _)| kind.trim().eq_ignore_ascii_case("form-data"))
    else {
        return Err(Malformed("a part of the form is no field"));
    };
    let all = parameters(rest)?;
    let of = |wanted: &str| all.iter().find(|(key, _)| key == wanted).map(|(_, value)| value);
    let Some(name) = of("name").cloned() else {
        return Err(Malformed("a field has no name"));
    };
    let called = of("filename*").or(of("filename"));
    Ok(Piece::Field { name, file: called.is_some(), unnamed: called.is_some_and(String::is_empty) })
}

/// `a=b; c="d"`: keys in lower case, with their values.
fn parameters(text: &str) -> Result<Vec<(String, String)>, Malformed> {
    let mut out = Vec::new();
    let mut rest = text.trim_start_matches([' ', '\t', ';']);
    while !rest.is_empty() {
        let Some((key, behind)) = rest.split_once('=') else {
            return Err(Malformed("a parameter of a header has no value"));
        };
        let (value, behind) = match behind.strip_prefix('"') {
            Some(quoted) => unquoted(quoted)?,
            None => {
                let end = behind.find(';').unwrap_or(behind.len());
                (behind[..end].trim().to_owned(), &behind[end..])
            }
        };
        out.push((key.trim().to_ascii_lowercase(), value));
        rest = behind.trim_start_matches([' ', '\t', ';']);
    }
    Ok(out)
}

/// The text up to the closing quote, and what is behind it.
fn unquoted(text: &str) -> Result<(String, &str), Malformed> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((value, &text[at + 1..])),
            // Only these two: others are part of old names of files, such as C:\picture.png.
            '\\' if text[at + 1..].starts_with(['"', '\\']) => {
                value.extend(characters.next().map(|(_, escaped)| escaped));
            }
            other => value.push(other),
        }
    }
    Err(Malformed("a quote is not closed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPE: &str = "multipart/form-data; boundary=\"x y\"";

    /// Fields with whether they are files and what they hold, and whether the form is complete.
    type Read = (Vec<(String, bool, Vec<u8>)>, bool);

    /// What comes out of `body` in pieces of `size` bytes.
    fn read(body: &[u8], size: usize) -> Result<Read, Malformed> {
        let mut parser = Parser::new(TYPE).unwrap();
        let mut out: Vec<(String, bool, Vec<u8>)> = Vec::new();
        let mut complete = false;
        for piece in body.chunks(size) {
            parser.push(piece);
            while let Some(next) = parser.next()? {
                match next {
                    Piece::Field { name, file, .. } => out.push((name, file, Vec::new())),
                    Piece::Data(data) => out.last_mut().unwrap().2.extend(data),
                    Piece::End => complete = true,
                }
            }
            assert!(parser.buffer.len() <= HEAD + size, "{}", parser.buffer.len());
        }
        Ok((out, complete))
    }

    #[test]
    fn fields_come_out_however_the_body_is_cut() {
        let body = b"ignored\r\n--x y\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\na\r\n--x\r\n\
                     \r\n--x y\r\ncontent-type: image/png\r\nCONTENT-DISPOSITION: form-data; \
                     filename=\"C:\\a;b\\\"c.png\"; name=ref\r\n\r\n\r\n--x y\r\n\
                     Content-Disposition: form-data; name=\"e\"\r\n\r\n\r\n\r\n--x y--\r\nmore";
        let whole = read(body, body.len()).unwrap();
        let names: Vec<(&str, bool)> = whole.0.iter().map(|(n, f, _)| (n.as_str(), *f)).collect();
        assert_eq!(names, [("prompt", false), ("ref", true), ("e", false)]);
        assert_eq!(whole.0[0].2, b"a\r\n--x\r\n");
        let values: Vec<&[u8]> = whole.0.iter().map(|(_, _, value)| value.as_slice()).collect();
        assert_eq!(values, [&b"a\r\n--x\r\n"[..], b"", b"\r\n"]);
        for size in 1..40 {
            assert_eq!(read(body, size).unwrap(), whole, "{size}");
        }
        assert!(whole.1);
        for end in 0..body.len() - 6 {
            let cut = read(&body[..end.max(1)], 7);
            assert!(cut.is_ok_and(|(_, complete)| !complete), "{end}");
        }
    }

    #[test]
    fn a_long_value_is_passed_on_as_it_comes() {
        let head = b"--x y\r\nContent-Disposition: form-data; name=f; filename=f\r\n\r\n";
        let value = b"\r\n--x ".repeat(100_000);
        let body = [&head[..], &value, b"\r\n--x y--"].concat();
        let (fields, complete) = read(&body, 4096).unwrap();
        assert!(complete && fields[0].2 == value);
    }

    #[test]
    fn what_is_no_form_is_refused() {
        for kind in [
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "multipart/form-data; boundary=\"x",
            "multipart/mixed; boundary=x",
            "application/json; boundary=x",
            &format!("multipart/form-data; boundary={}", "x".repeat(71)),
            "multipart/form-data; boundary=\u{e4}",
        ] {
            assert!(Parser::new(kind).is_none(), "{kind}");
        }
        let bad: [&[u8]; 7] = [
            b"--x yy\r\n",
            b"--x y\r\nX: y\r\n\r\n",
            b"--x y\r\nContent-Disposition: attachment; name=a\r\n\r\n",
            b"--x y\r\nContent-Disposition: form-data; filename=a\r\n\r\n",
            b"--x y\r\nContent-Disposition: form-data; name=\"a\r\n\r\n",
            b"--x y\r\nContent-Disposition: form-data; name\r\n\r\n",
            b"--x y\r\nContent-Disposition: form-data; name=\"\xff\"\r\n\r\n",
        ];
        for body in bad {
            assert!(read(body, 3).is_err(), "{}", String::from_utf8_lossy(body));
        }
        let endless = [&b"--x y\r\nX: "[..], &[b'a'; 3 * HEAD]].concat();
        assert_eq!(read(&endless, 100), Err(Malformed("the head of a field is too long")));
    }
}
