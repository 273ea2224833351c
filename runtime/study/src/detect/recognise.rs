//! Who a face is, as numbers: ArcFace, CurricularFace and SFace on a face brought to its place
//! (`data.md` §3.2).

use super::Identities;
use crate::face::{Points, TEMPLATE, aligned, similarity, warped};
use crate::model::network::Network;
use crate::model::pixels::{Order, Pixels};
use crate::picture::Plane;
use crate::settings::{Engine, IdentityKind};
use anyid_files::Result;
use std::path::Path;

/// Sides of the picture that networks see.
const SIDE: usize = 112;

/// A network.
pub struct Recogniser {
    network: Network,
    input: String,
    output: String,
    pixels: Pixels,
    /// Numbers that it gives.
    width: usize,
    /// Whether faces are brought to twice the size first.
    twice: bool,
}

impl Recogniser {
    /// Opens a file; with `twice`, faces are aligned in 224x224 pixels and then made half as large, as some
    /// public measurements do it.
    ///
    /// # Errors
    /// E0911, E1208.
    pub fn open(path: &Path, engine: Engine, kind: IdentityKind, twice: bool) -> Result<Self> {
        let (what, width) = match kind {
            IdentityKind::Arcface => ("ArcFace", 512),
            IdentityKind::Curricularface => ("CurricularFace", 512),
            IdentityKind::Sface => ("SFace", 128),
        };
        let network = Network::open(path, engine, what)?;
        let input = network.input(None, &[0, 3, SIDE, SIDE])?.name.clone();
        let [output] = network.outputs() else {
            let count = network.outputs().len();
            return Err(network.mismatch(&format!("it has {count} outputs, expected one")));
        };
        let output = output.clone();
        let raw = Pixels::even(Order::Rgb, 0.0, 1.0);
        let pixels = match kind {
            IdentityKind::Sface => raw,
            IdentityKind::Arcface if network.normalises() => raw,
            IdentityKind::Arcface | IdentityKind::Curricularface => {
                Pixels::even(Order::Rgb, 127.5, 127.5)
            }
        };
        let own = Self { network, input, output, pixels, width, twice };
        own.numbers(&Plane {
            width: SIDE,
            height: SIDE,
            channels: 3,
            data: vec![0.0; SIDE * SIDE * 3],
        })?;
        Ok(own)
    }

    /// What the network says of a picture of a face in its place.
    fn numbers(&self, face: &Plane) -> Result<Vec<f32>> {
        let tensor = self.pixels.tensor(face, [SIDE; 2], [0, 0], None);
        let wanted: &[(&str, &[usize])] = &[(&self.output, &[1, self.width])];
        Ok(self.network.shaped(&self.input, tensor, wanted)?.remove(0).data)
    }
}

impl Identities for Recogniser {
    fn embedding(&self, plane: &Plane, points: &Points) -> Result<Option<Vec<f32>>> {
        let face = match self.twice {
            true => {
                let place = TEMPLATE.map(|point| point.map(|side| 2.0 * side));
                let large =
                    similarity(points, &place).and_then(|map| warped(plane, &map, 2 * SIDE));
                large.map(|large| large.linear(SIDE, SIDE))
            }
            false => aligned(plane, points),
        };
        face.map(|face| self.numbers(&face)).transpose()
    }
}
