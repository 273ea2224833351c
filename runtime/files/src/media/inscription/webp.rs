//! The text that stable-diffusion.cpp puts into WebP: `sdcpp:parameters` of the XMP packet, as an
//! attribute or as an element.

use super::{PARAMETERS, PNG_TEXT, Texts, fill, skip, some};
use std::io::{self, Read, Seek};

/// Its name in the packet.
const NAME: &str = "sdcpp:parameters";

/// The text of a file, if it has it.
pub(super) fn read(file: &mut (impl Read + Seek), texts: &mut Texts) -> io::Result<()> {
    skip(file, 12)?;
    let mut head = [0; 8];
    while fill(file, &mut head)? {
        let [name @ .., a, b, c, d] = head;
        let length = u32::from_le_bytes([a, b, c, d]);
        let padded = u64::from(length) + u64::from(length % 2);
        if &name[..] != b"XMP " {
            skip(file, padded)?;
        } else if length as usize > PNG_TEXT {
            texts.left_out("XMP", "it has more than 1 MiB");
            skip(file, padded)?;
        } else {
            let packet = some(file, u64::from(length))?;
            match std::str::from_utf8(&packet) {
                Ok(packet) => {
                    if let Some(text) = parameters(packet) {
                        texts.add(PARAMETERS, text);
                    }
                }
                Err(_) => texts.left_out("XMP", "it is not UTF-8"),
            }
            skip(file, padded - u64::from(length))?;
        }
    }
    Ok(())
}

fn parameters(packet: &str) -> Option<String> {
    let (_, rest) = packet.split_once(NAME)?;
    let raw = match rest.strip_prefix('=') {
        Some(rest) => {
            let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
            rest[1..].split_once(quote)?.0
        }
        None => rest.split_once('>')?.1.split_once("</")?.0,
    };
    Some(unescaped(raw))
}

/// Text of XML, with its five names and numbers of characters.
fn unescaped(raw: &str) -> String {
    let (mut out, mut rest) = (String::new(), raw);
    while let Some((before, after)) = rest.split_once('&') {
        out.push_str(before);
        let named = after.split_once(';').and_then(|(name, after)| {
            let character = match name {
                "lt" => '<',
                "gt" => '>',
                "amp" => '&',
                "quot" => '"',
                "apos" => '\'',
                _ => {
                    let number = name.strip_prefix('#')?;
                    let code = match number.strip_prefix('x') {
                        Some(digits) => u32::from_str_radix(digits, 16),
                        None => number.parse(),
                    };
                    char::from_u32(code.ok()?)?
                }
            };
            Some((character, after))
        });
        rest = match named {
            Some((character, after)) => {
                out.push(character);
                after
            }
            None => {
                out.push('&');
                after
            }
        };
    }
    out.push_str(rest);
    out
}
