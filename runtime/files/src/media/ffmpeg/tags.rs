//! Texts in forms that only `ffmpeg` knows, in its own form of metadata (`ffmetadata`).
//!
//! Written from a file, because an argument is seen by everybody on the machine and has a limit; read
//! from its output, of which no more than was asked for is taken.

use super::process::{Input, Process, file_argument};
use crate::error::{Error, Result};
use std::ffi::OsString;
use std::io::Read;
use std::path::Path;

/// The words that have a file of tags written into the result.
pub(super) fn arguments(file: &Path) -> Vec<OsString> {
    let words = ["-protocol_whitelist", "file", "-f", "ffmetadata", "-i"];
    let mut words: Vec<OsString> = words.into_iter().map(OsString::from).collect();
    words.push(file_argument(file));
    words.extend(["-map_metadata", "1"].map(OsString::from));
    words
}

/// The contents of a file of one tag.
pub(super) fn file(key: &str, text: &str) -> String {
    let mut out = format!(";FFMETADATA1\n{key}=");
    for character in text.chars() {
        if matches!(character, '=' | ';' | '#' | '\\' | '\n') {
            out.push('\\');
        }
        out.push(character);
    }
    out.push('\n');
    out
}

/// Hands the tags of a file to `each`, their names in small letters; of at most `most` bytes. What
/// `ffmpeg` cannot read has none.
///
/// # Errors
/// `E0811` it cannot be started, `E0801` the file cannot be opened.
pub(in crate::media) fn texts(
    program: &Path,
    path: &Path,
    demuxer: &str,
    most: u64,
    each: &mut dyn FnMut(&str, &[u8]),
) -> Result<()> {
    let mut arguments: Vec<OsString> = ["-f", demuxer].map(OsString::from).to_vec();
    arguments.extend(Input::File(path).arguments());
    arguments.extend(["-f", "ffmetadata", "-"].map(OsString::from));
    let mut process = Process::start(program, Input::File(path), &arguments, true)?;
    let mut found = Vec::new();
    if let Some(output) = process.output.take() {
        output
            .take(most)
            .read_to_end(&mut found)
            .map_err(|e| Error::input("E0811", "ffmpeg cannot be listened to").caused_by(e))?;
    }
    process.finish()?;
    parse(&found, each);
    Ok(())
}

/// The tags of the whole file: those before the first section.
fn parse(bytes: &[u8], each: &mut dyn FnMut(&str, &[u8])) {
    let (mut line, mut equals, mut at) = (Vec::new(), None, 0);
    let mut first = None;
    while at <= bytes.len() {
        match bytes.get(at) {
            Some(b'\\') if at + 1 < bytes.len() => {
                at += 1;
                first = first.or(Some(b'\\'));
                line.push(bytes[at]);
            }
            None | Some(b'\n') => {
                if first == Some(b'[') {
                    return;
                }
                if let (Some(equals), false) = (equals, matches!(first, Some(b';' | b'#'))) {
                    let key = String::from_utf8_lossy(&line[..equals]).to_ascii_lowercase();
                    each(&key, &line[equals..]);
                }
                line.clear();
                (equals, first) = (None, None);
            }
            Some(b'=') if equals.is_none() => equals = Some(line.len()),
            Some(byte) => {
                first = first.or(Some(*byte));
                line.push(*byte);
            }
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_read_as_they_were_written() {
        let text = "{\"a\": \"\u{fc} = ; # \\\\ \\n\"}\nsecond line";
        let mut found = Vec::new();
        let written = file("COMMENT", text) + "[STREAM]\nother=1\n";
        parse(written.as_bytes(), &mut |key, text| {
            found.push((key.to_owned(), String::from_utf8(text.to_vec()).unwrap()));
        });
        assert_eq!(found, [("comment".to_owned(), text.to_owned())]);
    }
}
