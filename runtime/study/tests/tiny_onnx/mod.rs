//! ONNX files of some hundred bytes whose values can be computed by hand, for tests of what runs models.

#![allow(dead_code)]

/// A message of protocol buffers: fields one after the other.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn number(mut self, field: u64, value: u64) -> Self {
        for mut part in [field << 3, value] {
            while part >= 128 {
                self.0.push(part as u8 | 128);
                part >>= 7;
            }
            self.0.push(part as u8);
        }
        self
    }

    fn bytes(mut self, field: u64, bytes: &[u8]) -> Self {
        for mut part in [field << 3 | 2, bytes.len() as u64] {
            while part >= 128 {
                self.0.push(part as u8 | 128);
                part >>= 7;
            }
            self.0.push(part as u8);
        }
        self.0.extend_from_slice(bytes);
        self
    }

    fn part(self, field: u64, part: Self) -> Self {
        self.bytes(field, &part.0)
    }
}

/// The type of an input or output: 0 for an axis of any size.
fn value(name: &str, shape: &[u64]) -> Message {
    let dims = shape.iter().fold(Message::default(), |dims, size| {
        let dim = match size {
            0 => Message::default().bytes(2, b"batch"),
            size => Message::default().number(1, *size),
        };
        dims.part(1, dim)
    });
    let tensor = Message::default().number(1, 1).part(2, dims);
    Message::default().bytes(1, name.as_bytes()).part(2, Message::default().part(1, tensor))
}

fn node(op: &str, inputs: &[&str], output: &str) -> Message {
    let node = inputs.iter().fold(Message::default(), |node, name| node.bytes(1, name.as_bytes()));
    node.bytes(2, output.as_bytes()).bytes(4, op.as_bytes())
}

fn weight(name: &str, dims: &[u64], values: &[f32]) -> Message {
    let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let tensor = dims.iter().fold(Message::default(), |tensor, size| tensor.number(1, *size));
    tensor.number(2, 1).bytes(8, name.as_bytes()).bytes(9, &raw)
}

fn sizes(name: &str, values: &[i64]) -> Message {
    let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let tensor = Message::default().number(1, values.len() as u64);
    tensor.number(2, 7).bytes(8, name.as_bytes()).bytes(9, &raw)
}

fn model(nodes: Vec<Message>, weights: Vec<Message>, ends: [Message; 2]) -> Vec<u8> {
    let [input, output] = ends;
    model_of(nodes, weights, vec![input], output)
}

fn model_of(
    nodes: Vec<Message>,
    weights: Vec<Message>,
    inputs: Vec<Message>,
    output: Message,
) -> Vec<u8> {
    let graph = nodes.into_iter().fold(Message::default(), |graph, node| graph.part(1, node));
    let graph = weights.into_iter().fold(graph.bytes(2, b"g"), |graph, w| graph.part(5, w));
    let graph = inputs.into_iter().fold(graph, |graph, input| graph.part(11, input));
    let graph = graph.part(12, output);
    let opset = Message::default().bytes(1, b"").number(2, 13);
    Message::default().number(1, 8).part(7, graph).part(8, opset).0
}

/// A model of pictures: the mean of each colour, times `matrix` (3 rows) plus `bias`.
pub fn means(side: u64, output: &str, matrix: &[f32], bias: &[f32]) -> Vec<u8> {
    let width = bias.len() as u64;
    model(
        vec![
            node("GlobalAveragePool", &["pixel_values"], "pooled"),
            node("Flatten", &["pooled"], "flat"),
            node("MatMul", &["flat", "w"], "product"),
            node("Add", &["product", "b"], output),
        ],
        vec![weight("w", &[3, width], matrix), weight("b", &[width], bias)],
        [value("pixel_values", &[0, 3, side, side]), value(output, &[0, width])],
    )
}

/// A value of an embedding: its product with `weights` plus `bias`.
pub fn head(width: u64, weights: &[f32], bias: f32) -> Vec<u8> {
    model(
        vec![
            node("MatMul", &["embedding", "w"], "product"),
            node("Add", &["product", "b"], "value"),
        ],
        vec![weight("w", &[width, 1], weights), weight("b", &[1], &[bias])],
        [value("embedding", &[0, width]), value("value", &[0, 1])],
    )
}

/// In each of 16 x 16 parts of a picture, whether a column of 256 is in the first half of its part:
/// 1 or −1.
fn halves(at: usize) -> f32 {
    if at % 16 < 8 { 1.0 } else { -1.0 }
}

/// An embedder: a part of the picture for each bit, brighter by `strength` in its left half and
/// darker in its right one for 1, and the other way round for 0.
pub fn seal(strength: f32) -> Vec<u8> {
    let place = |at: usize, part: usize| f32::from(u8::from(at / 16 == part));
    let rows: Vec<f32> = (0..256 * 16).map(|k| strength * place(k / 16, k % 16)).collect();
    let columns: Vec<f32> =
        (0..16 * 256).map(|k| halves(k % 256) * place(k % 256, k / 256)).collect();
    model_of(
        vec![
            node("Mul", &["msg", "two"], "doubled"),
            node("Sub", &["doubled", "one"], "signs"),
            node("Reshape", &["signs", "square"], "parts"),
            node("MatMul", &["rows", "parts"], "tall"),
            node("MatMul", &["tall", "columns"], "whole"),
            node("Reshape", &["whole", "shape"], "pattern"),
            node("Mul", &["image", "none"], "nothing"),
            node("Add", &["pattern", "nothing"], "delta"),
        ],
        vec![
            weight("two", &[1], &[2.0]),
            weight("one", &[1], &[1.0]),
            weight("none", &[1], &[0.0]),
            sizes("square", &[16, 16]),
            sizes("shape", &[1, 1, 256, 256]),
            weight("rows", &[256, 16], &rows),
            weight("columns", &[16, 256], &columns),
        ],
        vec![value("image", &[0, 1, 256, 256]), value("msg", &[0, 256])],
        value("delta", &[0, 1, 256, 256]),
    )
}

/// The detector for [`seal`]: how much brighter the left half of each part is, behind a value that
/// says nothing.
pub fn unseal() -> Vec<u8> {
    let place = |at: usize, part: usize| f32::from(u8::from(at / 16 == part));
    let rows: Vec<f32> = (0..16 * 256).map(|k| place(k % 256, k / 256) / 16.0).collect();
    let columns: Vec<f32> =
        (0..256 * 16).map(|k| halves(k / 16) * place(k / 16, k % 16) / 8.0).collect();
    let behind: Vec<f32> =
        (0..256 * 257).map(|k| f32::from(u8::from(k % 257 == k / 257 + 1))).collect();
    model(
        vec![
            node("MatMul", &["rows", "image"], "low"),
            node("MatMul", &["low", "columns"], "parts"),
            node("Reshape", &["parts", "flat"], "colours"),
            node("MatMul", &["mean", "colours"], "grey"),
            node("MatMul", &["grey", "behind"], "bits"),
        ],
        vec![
            weight("rows", &[16, 256], &rows),
            weight("columns", &[256, 16], &columns),
            sizes("flat", &[3, 256]),
            weight("mean", &[1, 3], &[1.0 / 3.0; 3]),
            weight("behind", &[256, 257], &behind),
        ],
        [value("image", &[0, 3, 256, 256]), value("bits", &[0, 257])],
    )
}
