//! Small pictures of groups for the page, with faces blurred unless they are asked for.

use crate::geometry::{Rect, clipped, size};
use crate::lines::all;
use crate::picture::Plane;
use crate::records::{Clip, Group, schema};
use crate::stages::Stage;
use anyid_files::media::{ReadOptions, RgbFrame, visit_frames};
use anyid_files::{Error, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

/// Pictures of a page.
const MOST: usize = 24;
/// Width of a picture.
const WIDTH: usize = 240;
/// Pixels that a face is brought to where it is blurred: too few to know anybody.
const BLURRED: usize = 5;

/// A picture of the page.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// A JPEG file in base64.
    pub data: String,
    /// What it shows.
    pub caption: String,
}

/// Makes a part of a picture a few large pixels.
pub fn blur(plane: &mut Plane, part: &Rect) {
    let [left, top, right, bottom] =
        clipped(part, [plane.width, plane.height]).map(|side| side.round() as usize);
    if left >= right || top >= bottom {
        return;
    }
    let (width, height) = (right - left, bottom - top);
    let inner = plane.window(left as i64, top as i64, width, height);
    let few = inner.area(BLURRED.min(width), BLURRED.min(height)).linear(width, height);
    for y in 0..height {
        let row = ((top + y) * plane.width + left) * 3;
        plane.data[row..row + width * 3].copy_from_slice(&few.data[y * width * 3..][..width * 3]);
    }
}

/// A frame brought to a width, as a JPEG file in base64; faces in `hidden` are blurred with their hair.
///
/// # Errors
/// E1013 where it cannot be coded.
pub fn small(frame: &RgbFrame, most: usize, hidden: &[Rect]) -> Result<String> {
    let mut plane = Plane::rgb(frame);
    for face in hidden {
        let [width, height] = size(face);
        // With its hair and chin.
        let wide = [
            face[0] - 0.2 * width,
            face[1] - 0.3 * height,
            face[2] + 0.2 * width,
            face[3] + 0.2 * height,
        ];
        blur(&mut plane, &wide);
    }
    let height = (plane.height * most / plane.width).clamp(1, 4 * most);
    let plane = plane.area(most, height);
    let bytes: Vec<u8> = plane.data.iter().map(|value| value.round() as u8).collect();
    let mut jpeg = Vec::new();
    let mut encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut jpeg, 80);
    let (width, height) = (most as u32, height as u32);
    encoder
        .encode(&bytes, width, height, image::ExtendedColorType::Rgb8)
        .map_err(|cause| Error::internal("E1013", "a picture cannot be coded").caused_by(cause))?;
    Ok(STANDARD.encode(jpeg))
}

/// A picture of the medoid, or of the first clip, of each group; files that cannot be read are left
/// out.
///
/// # Errors
/// E0911, E1202.
pub fn of_groups(out: &Path, root: &Path, show_faces: bool) -> Result<Vec<Picture>> {
    let path = out.join("groups.jsonl");
    if !path.exists() {
        return Ok(Vec::new());
    }
    let groups: Vec<Group> = all(&path, schema::GROUP)?;
    let mut wanted: BTreeMap<String, &Group> = BTreeMap::new();
    for group in groups.iter().take(MOST) {
        wanted.extend(group.medoid.as_ref().or(group.clips.first()).map(|id| (id.clone(), group)));
    }
    let mut pictures = Vec::new();
    for item in crate::stages::items::items(&out.join(Stage::Filter.file()))? {
        for line in item?.lines {
            let Ok(clip) = crate::lines::parsed::<Clip>(&line, schema::CLIP) else { continue };
            let Some(group) = wanted.get(&clip.span.id) else { continue };
            let Some(face) = clip.faces.get(clip.faces.len() / 2) else { continue };
            let (mut at, mut data) = (0, None);
            let seen =
                visit_frames(&root.join(&clip.span.media), &ReadOptions::default(), &mut |f| {
                    if at == face.f {
                        let hidden = if show_faces { &[][..] } else { &[face.area][..] };
                        data = Some(small(&f.image, WIDTH, hidden)?);
                        return Ok(ControlFlow::Break(()));
                    }
                    at += 1;
                    Ok(ControlFlow::Continue(()))
                });
            let caption = format!("{}: {} clips", group.id, group.clips.len());
            pictures.extend(data.filter(|_| seen.is_ok()).map(|data| Picture { data, caption }));
        }
    }
    Ok(pictures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faces_are_not_to_be_known() {
        let data = (0..100 * 80 * 3).map(|at| if at % 2 == 0 { 255.0 } else { 0.0 }).collect();
        let mut plane = Plane { width: 100, height: 80, channels: 3, data };
        let before = plane.clone();
        blur(&mut plane, &[20.0, 10.0, 120.0, 60.0]);
        let inside = plane.window(20, 10, 80, 50);
        let spread = inside.data.iter().fold((f32::MAX, 0f32), |(a, b), v| (a.min(*v), b.max(*v)));
        assert!(spread.1 - spread.0 < 10.0, "{spread:?}");
        assert_eq!(plane.window(0, 0, 20, 80), before.window(0, 0, 20, 80));
        let frame = RgbFrame { width: 4, height: 2, data: vec![9; 24] };
        assert!(small(&frame, WIDTH, &[]).unwrap().len() > 100);
    }
}
