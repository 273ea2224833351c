//! Pictures in terminals that show them: the graphics protocols of kitty and of iTerm2.
//!
//! A terminal is recognised by what it says of itself in the environment; it is not asked, because the
//! answer would come where the user types. Where nothing is known, nothing is shown.

use crate::output::{capable_terminal, quiet};

/// How a terminal takes pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Escape sequences `_G`, in pieces: kitty, Ghostty.
    Kitty,
    /// Escape sequence `]1337`: iTerm2, WezTerm.
    Iterm,
}

/// Bytes of base64 in a piece for kitty.
const PIECE: usize = 4096;

/// The protocol of the terminal at standard error, if that shows pictures.
pub fn protocol() -> Option<Protocol> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    (capable_terminal() && !quiet()).then(|| known(&variable)).flatten()
}

fn known(variable: &dyn Fn(&str) -> Option<String>) -> Option<Protocol> {
    // Multiplexers do not pass pictures on.
    if variable("TMUX").is_some() || variable("STY").is_some() {
        return None;
    }
    let kitty = variable("KITTY_WINDOW_ID").is_some()
        || variable("TERM").is_some_and(|term| term.contains("kitty") || term.contains("ghostty"));
    match variable("TERM_PROGRAM").as_deref() {
        Some("iTerm.app" | "WezTerm") => Some(Protocol::Iterm),
        Some("ghostty") => Some(Protocol::Kitty),
        _ => kitty.then_some(Protocol::Kitty),
    }
}

impl Protocol {
    /// What shows a PNG file.
    pub fn shown(self, png: &[u8]) -> String {
        let text = base64(png);
        match self {
            Self::Iterm => format!("\x1b]1337;File=inline=1;size={}:{text}\x07", png.len()),
            Self::Kitty => {
                let pieces: Vec<&str> = (0..text.len())
                    .step_by(PIECE)
                    .map(|at| &text[at..text.len().min(at + PIECE)])
                    .collect();
                let mut out = String::new();
                for (at, piece) in pieces.iter().enumerate() {
                    let keys = if at == 0 { "a=T,f=100," } else { "" };
                    let more = u8::from(at + 1 < pieces.len());
                    out.push_str(&format!("\x1b_G{keys}m={more};{piece}\x1b\\"));
                }
                out
            }
        }
    }
}

/// Base64 with padding (RFC 4648).
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word = group.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte));
        let word = word << (8 * (3 - group.len()));
        for at in 0..4 {
            let six = (word >> (18 - 6 * at)) as usize & 63;
            out.push(if at <= group.len() { char::from(LETTERS[six]) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
    }

    #[test]
    fn pictures_come_in_the_sequences_of_the_terminal() {
        let small = Protocol::Kitty.shown(b"foo");
        assert_eq!(small, "\x1b_Ga=T,f=100,m=0;Zm9v\x1b\\");
        let large = Protocol::Kitty.shown(&[0; 4000]);
        assert_eq!(large.matches("\x1b_G").count(), 2);
        assert!(large.starts_with("\x1b_Ga=T,f=100,m=1;") && large.contains("\x1b_Gm=0;"));
        assert_eq!(Protocol::Iterm.shown(b"foo"), "\x1b]1337;File=inline=1;size=3:Zm9v\x07");
    }

    #[test]
    fn terminals_are_known_by_what_they_say() {
        let find = |set: &[(&str, &str)]| {
            known(&|name| set.iter().find(|(own, _)| *own == name).map(|(_, v)| (*v).to_owned()))
        };
        assert_eq!(find(&[("TERM", "xterm-kitty")]), Some(Protocol::Kitty));
        assert_eq!(find(&[("KITTY_WINDOW_ID", "1"), ("TERM", "xterm")]), Some(Protocol::Kitty));
        assert_eq!(find(&[("TERM_PROGRAM", "iTerm.app")]), Some(Protocol::Iterm));
        assert_eq!(find(&[("TERM_PROGRAM", "WezTerm")]), Some(Protocol::Iterm));
        assert_eq!(find(&[("TERM", "xterm-256color"), ("TERM_PROGRAM", "vscode")]), None);
        assert_eq!(find(&[("TERM", "xterm-kitty"), ("TMUX", "/tmp/x")]), None);
    }
}
