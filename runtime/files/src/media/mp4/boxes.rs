//! Boxes, the units of ISO base media files (ISO/IEC 14496-12 §4.2), inside a byte slice.
//!
//! Nothing is trusted: a size that does not move on or leaves its parent ends the walk, a table is
//! cut to what its box holds, and reading outside the slice gives none.

/// One box inside a byte slice; offsets are into that slice.
#[derive(Clone, Copy, Debug)]
pub(in crate::media) struct Atom {
    /// Its four letters.
    pub name: [u8; 4],
    /// Where its contents begin.
    pub body: usize,
    /// Where they end.
    pub end: usize,
}

/// The boxes of `bytes[start..end]`, as far as they are well formed.
pub(in crate::media) fn children(bytes: &[u8], start: usize, end: usize) -> Vec<Atom> {
    let mut atoms = Vec::new();
    let mut at = start;
    while at + 8 <= end.min(bytes.len()) {
        let Some(short) = word(bytes, at) else { break };
        let name = [bytes[at + 4], bytes[at + 5], bytes[at + 6], bytes[at + 7]];
        let (mut size, mut body) = (u64::from(short), 8);
        if size == 1 {
            let Some(long) = long(bytes, at + 8) else { break };
            (size, body) = (long, 16);
        } else if size == 0 {
            size = (end - at) as u64;
        }
        if size < body as u64 || size > (end - at) as u64 {
            break;
        }
        let next = at + size as usize;
        atoms.push(Atom { name, body: at + body, end: next });
        at = next;
    }
    atoms
}

/// The first descendant along a path of names.
pub(in crate::media) fn find(
    bytes: &[u8],
    start: usize,
    end: usize,
    path: &[&[u8; 4]],
) -> Option<Atom> {
    let (mut range, mut found) = ((start, end), None);
    for name in path {
        let atom = children(bytes, range.0, range.1).into_iter().find(|a| a.name == **name)?;
        range = (atom.body, atom.end);
        found = Some(atom);
    }
    found
}

pub(in crate::media) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

pub(in crate::media) fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// A table of `entry`-byte rows: a count at `count`, then the rows; cut to what the box holds.
pub(in crate::media) fn rows(
    bytes: &[u8],
    atom: Atom,
    count: usize,
    entry: usize,
) -> std::slice::ChunksExact<'_, u8> {
    let start = (count + 4).min(atom.end);
    let claimed = word(bytes, count).unwrap_or(0) as usize;
    let end = claimed.saturating_mul(entry).saturating_add(start).min(atom.end);
    bytes.get(start..end).unwrap_or_default().chunks_exact(entry)
}

#[cfg(test)]
pub(super) mod testing {
    //! Boxes for tests.

    pub(in crate::media::mp4) fn atom(name: &[u8; 4], body: &[u8]) -> Vec<u8> {
        let mut out = (body.len() as u32 + 8).to_be_bytes().to_vec();
        out.extend(name);
        out.extend(body);
        out
    }

    pub(in crate::media::mp4) fn words(values: &[u32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_be_bytes()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{atom, words};
    use super::*;

    #[test]
    fn malformed_boxes_end_the_walk() {
        assert!(children(&[0, 0, 0, 3, 1, 2, 3, 4], 0, 8).is_empty());
        assert!(children(&[0, 0, 1, 0, 1, 2, 3, 4], 0, 8).is_empty());
        // Size zero reaches to the end and moves on.
        let bytes = [atom(b"free", &[]), vec![0, 0, 0, 0, b'm', b'd', b'a', b't', 9]].concat();
        assert_eq!(children(&bytes, 0, bytes.len()).len(), 2);
    }

    #[test]
    fn tables_are_cut_to_their_boxes() {
        let bytes = atom(b"stco", &words(&[0, u32::MAX, 1, 2]));
        let stco = children(&bytes, 0, bytes.len())[0];
        assert_eq!(rows(&bytes, stco, stco.body + 4, 4).len(), 2);
    }
}
