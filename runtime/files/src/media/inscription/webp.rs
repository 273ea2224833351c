//! Texts in the XMP packet of WebP, as attributes or as elements: ours, and `sdcpp:parameters` of
//! stable-diffusion.cpp.

use super::{Inscription, KEY, PARAMETERS, PNG_TEXT, Texts, fill, skip, some};
use std::io::{self, Read, Seek};

/// Names in the packet, and the keys that the texts get.
const NAMES: [(&str, &str); 2] = [("anyid:recipe", KEY), ("sdcpp:parameters", PARAMETERS)];

/// The packet of an inscription.
pub(in crate::media) fn packet(what: &Inscription) -> String {
    let mut escaped = String::new();
    for character in what.json.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    let name = NAMES[0].0;
    format!(
        "<x:xmpmeta xmlns:x=\"adobe:ns:meta/\"><rdf:RDF \
         xmlns:rdf=\"http://www.w3.org/1999/02/22-rdf-syntax-ns#\"><rdf:Description rdf:about=\"\" \
         xmlns:anyid=\"urn:anyid-rt\" {name}=\"{escaped}\"/></rdf:RDF></x:xmpmeta>"
    )
}

/// The texts of a file.
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
                    for (name, key) in NAMES {
                        if let Some(text) = named(packet, name) {
                            texts.add(key, text);
                        }
                    }
                }
                Err(_) => texts.left_out("XMP", "it is not UTF-8"),
            }
            skip(file, padded - u64::from(length))?;
        }
    }
    Ok(())
}

fn named(packet: &str, name: &str) -> Option<String> {
    let (_, rest) = packet.split_once(name)?;
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
