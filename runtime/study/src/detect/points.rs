//! 68 points of a face in space, by insightface's `1k3d68` (`data.md` §4.1), and how the head is turned.

use super::Poses;
use crate::face::space::{Shape, mean_shape, pose};
use crate::face::warped;
use crate::geometry::{Rect, size};
use crate::model::network::Network;
use crate::model::pixels::{Order, Pixels};
use crate::picture::Plane;
use crate::settings::PoseModel;
use anyid_files::{Error, Result, error, input};
use std::path::Path;

/// Sides of the picture that the network sees.
const SIDE: usize = 192;
/// Numbers that it gives: 1103 points, of which the last 68 are the usual ones.
const NUMBERS: usize = 3309;
/// How much larger than the face the picture is.
const AROUND: f64 = 1.5;
/// Largest file of a mean shape, in bytes.
const LARGEST: u64 = 1 << 20;

/// The network.
pub struct Points68 {
    network: Network,
    input: String,
    output: String,
    pixels: Pixels,
    mean: Option<Shape>,
}

/// The mean shape in a file: 68 lists of three numbers.
fn read_shape(path: &Path) -> Result<Shape> {
    let fault = |what: String| {
        Error::input("E1208", format!("this is no mean shape: {what}"))
            .at(path.display())
            .help("it is a JSON list of 68 points [x, y, z]; docs/data.md says where it comes from")
    };
    let unreadable = |cause| error::unreadable(path, cause);
    let large = |limit: u64| fault(format!("it is larger than {limit} bytes"));
    let bytes = input::read(path, LARGEST).map_err(|r| r.coded(path, unreadable, large))?;
    let points: Vec<[f64; 3]> =
        serde_json::from_slice(&bytes).map_err(|cause| fault(cause.to_string()))?;
    let count = points.len();
    let shape: Shape = points.try_into().map_err(|_| fault(format!("it has {count} points")))?;
    mean_shape(shape).ok_or_else(|| fault("its points are no face".to_owned()))
}

impl Points68 {
    /// Opens the files.
    ///
    /// # Errors
    /// E0911, E1208.
    pub fn open(model: &PoseModel) -> Result<Self> {
        let network = Network::open(&model.path, model.engine, "1k3d68")?;
        let input = network.input(None, &[0, 3, SIDE, SIDE])?.name.clone();
        let [output] = network.outputs() else {
            let count = network.outputs().len();
            return Err(network.mismatch(&format!("it has {count} outputs, expected one")));
        };
        let output = output.clone();
        let pixels = match network.normalises() {
            true => Pixels::even(Order::Rgb, 0.0, 1.0),
            false => Pixels::even(Order::Rgb, 127.5, 128.0),
        };
        let mean = model.mean_shape.as_deref().map(read_shape).transpose()?;
        let own = Self { network, input, output, pixels, mean };
        let data = vec![0.0; SIDE * SIDE * 3];
        own.shape(&Plane { width: SIDE, height: SIDE, channels: 3, data })?;
        Ok(own)
    }

    /// The points in a picture of a face, in its pixels.
    fn shape(&self, face: &Plane) -> Result<Shape> {
        let tensor = self.pixels.tensor(face, [SIDE; 2], [0, 0], None);
        let wanted: &[(&str, &[usize])] = &[(&self.output, &[1, NUMBERS])];
        let found = self.network.shaped(&self.input, tensor, wanted)?.remove(0).data;
        let half = SIDE as f64 / 2.0;
        let last = &found[NUMBERS - 68 * 3..];
        Ok(std::array::from_fn(|at| {
            let [x, y, z] = [0, 1, 2].map(|k| f64::from(last[at * 3 + k]));
            [(x + 1.0) * half, (y + 1.0) * half, z * half]
        }))
    }

    /// The points of a face in a picture around it; none where there is no such picture.
    pub(super) fn around(&self, plane: &Plane, area: &Rect) -> Result<Option<Shape>> {
        let [width, height] = size(area);
        let scale = SIDE as f64 / (width.max(height) * AROUND);
        let shift = [0, 1].map(|k| SIDE as f64 / 2.0 - scale * (area[k] + area[k + 2]) / 2.0);
        let map = [[scale, 0.0, shift[0]], [0.0, scale, shift[1]]];
        warped(plane, &map, SIDE).map(|face| self.shape(&face)).transpose()
    }
}

impl Poses for Points68 {
    fn pose(&self, plane: &Plane, area: &Rect) -> Result<Option<[f64; 3]>> {
        let found = self.around(plane, area)?.and_then(|seen| pose(&seen, self.mean.as_ref()));
        Ok(found.map(|pose| [pose.yaw, pose.pitch, pose.roll]))
    }
}
