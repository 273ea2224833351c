//! What is read of an ONNX file before anything runs it: the first operators of its graph. And names of
//! operators taken out: converters give an operator the name of a value, which the format allows and the
//! runtime mixes up; nothing needs them.

/// The graph of a model.
const GRAPH: u64 = 7;
/// A node of a graph.
const NODE: u64 = 1;
/// The name of a node.
const NAME: u64 = 3;
/// The operator of a node.
const OPERATOR: u64 = 4;

/// A number of 7 bits a byte, the lowest first, and what stands behind it.
fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (at, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 127).checked_shl(7 * at as u32)?;
        if byte & 128 == 0 {
            return Some((value, &bytes[at + 1..]));
        }
    }
    None
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 128 {
        out.push(value as u8 & 127 | 128);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The first field of a message: its number, its content if it has one of a length, all of its bytes,
/// and what stands behind it.
type Field<'b> = (u64, Option<&'b [u8]>, &'b [u8], &'b [u8]);

fn field(bytes: &[u8]) -> Option<Field<'_>> {
    let (tag, rest) = number(bytes)?;
    let (content, rest) = match tag & 7 {
        0 => (None, number(rest)?.1),
        1 => (None, rest.get(8..)?),
        2 => {
            let (length, rest) = number(rest)?;
            let length = usize::try_from(length).ok()?;
            (Some(rest.get(..length)?), &rest[length..])
        }
        5 => (None, rest.get(4..)?),
        _ => return None,
    };
    Some((tag >> 3, content, &bytes[..bytes.len() - rest.len()], rest))
}

/// The contents of the fields of a message that have this number; none where this is no message.
fn contents(mut bytes: &[u8], wanted: u64) -> Option<Vec<&[u8]>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (key, content, _, rest) = field(bytes)?;
        found.extend(content.filter(|_| key == wanted));
        bytes = rest;
    }
    Some(found)
}

/// The names of the first operators of a model's graph; none where this is no such file.
pub fn first_operators(model: &[u8], most: usize) -> Option<Vec<String>> {
    let graph = *contents(model, GRAPH)?.first()?;
    let mut names = Vec::new();
    for node in contents(graph, NODE)?.into_iter().take(most) {
        let name = contents(node, OPERATOR)?.first().map(|name| String::from_utf8_lossy(name));
        names.extend(name.map(|name| name.into_owned()));
    }
    Some(names)
}

/// A message whose fields `change` gives another content, or none.
fn changed(mut bytes: &[u8], change: &dyn Fn(u64, &[u8]) -> Option<Change>) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes.len());
    while !bytes.is_empty() {
        let (key, content, whole, rest) = field(bytes)?;
        match content.and_then(|content| change(key, content)) {
            None => out.extend_from_slice(whole),
            Some(Change::Gone) => {}
            Some(Change::Other(other)) => {
                put(&mut out, key << 3 | 2);
                put(&mut out, other.len() as u64);
                out.extend(other);
            }
        }
        bytes = rest;
    }
    Some(out)
}

enum Change {
    Gone,
    Other(Vec<u8>),
}

/// The same model without names of operators; none where this is no such file.
pub fn without_names(model: &[u8]) -> Option<Vec<u8>> {
    let of_node = |key: u64, _: &[u8]| (key == NAME).then_some(Change::Gone);
    let of_graph = |key: u64, content: &[u8]| match key {
        NODE => changed(content, &of_node).map(Change::Other),
        _ => None,
    };
    let of_model = |key: u64, content: &[u8]| match key {
        GRAPH => changed(content, &of_graph).map(Change::Other),
        _ => None,
    };
    changed(model, &of_model)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(key: u8, content: &[u8]) -> Vec<u8> {
        [&[key << 3 | 2, content.len() as u8][..], content].concat()
    }

    #[test]
    fn only_names_of_operators_are_gone() {
        // A node with an input, a name and a type; a graph with it, a name and a number; a model.
        let type_ = text(4, b"Conv");
        let node = [text(1, b"x"), text(3, b"conv"), type_.clone()].concat();
        let graph = |node: &[u8]| [text(1, node), text(2, b"g"), vec![5 << 3, 200, 1]].concat();
        let model = |node: &[u8]| [vec![1 << 3, 7], text(7, &graph(node))].concat();
        let bare = [text(1, b"x"), type_].concat();
        assert_eq!(first_operators(&model(&node), 8), Some(vec!["Conv".to_owned()]));
        assert_eq!(first_operators(&model(&node), 0), Some(vec![]));
        assert_eq!(first_operators(&[0xff; 11], 8), None);
        assert_eq!(without_names(&model(&node)), Some(model(&bare)));
        for cut in [1, 3, 9, model(&node).len() - 1] {
            let bytes = &model(&node)[..cut];
            // Cut off within a field, or between two of them.
            assert!(without_names(bytes).is_none_or(|out| out == bytes), "{cut}");
        }
        assert_eq!(without_names(&[0xff; 11]), None);
    }
}
