//! HEIC and AVIF pictures: composed here, decoded by `ffmpeg`.
//!
//! The file says of what pieces a picture consists: one coded image, or a grid of tiles as phones
//! write them; then an aperture, turns and mirroring, and perhaps an image of opacities. We read
//! that ourselves, give the coded pieces to `ffmpeg` as a bare bitstream, and put the result
//! together. So every version of `ffmpeg` that decodes HEVC and AV1 gives the whole picture, and
//! never a single tile or a thumbnail. What we do not know how to put together is refused
//! (`E0840`). Sequences of pictures are clips, which `ffmpeg` reads as a whole.

mod coded;
mod compose;
mod items;

use super::color::ColourTags;
use super::ffmpeg;
use super::{Foreign, MediaKind, ReadOptions, RgbFrame, SourceInfo, TimedFrame, Visit};
use crate::error::{Error, Result};
use compose::{Grid, over_black, transform};
use items::{Bytes, Item, Meta, Property};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// A larger `meta` box is refused: it holds descriptions, not pictures.
const META_LIMIT: u64 = 64 << 20;
/// How far a picture may be derived from another that is derived from another.
const DEPTH_LIMIT: usize = 4;

/// A file that is being read.
struct Heif<'a> {
    path: &'a Path,
    name: &'static str,
    file: File,
    length: u64,
    options: &'a ReadOptions,
    warnings: Vec<String>,
}

/// The boxes at the top of the file that matter.
struct Top {
    meta: Option<Vec<u8>>,
    movie: bool,
    sequence: bool,
}

/// Decodes the picture, or the clip if the file is a sequence.
///
/// # Errors
/// `E0840` the picture cannot be shown whole, `E0808` damaged, `E0810` cut off, and those of
/// reading through `ffmpeg`: `E0806`, `E0807`, `E0809`, `E0811`.
pub(super) fn visit(
    path: &Path,
    file: File,
    length: u64,
    name: &'static str,
    options: &ReadOptions,
    visit: Visit<'_>,
) -> Result<SourceInfo> {
    let mut heif = Heif { path, name, file, length, options, warnings: Vec::new() };
    let top = heif.top()?;
    let sequence = || {
        let name = if name.contains("AVIF") { "an AVIF sequence" } else { "a HEIC sequence" };
        Foreign { name, demuxer: "mov", picture: false }
    };
    let content = match top.meta {
        Some(content) if !(top.sequence && top.movie) => content,
        _ if top.movie => return ffmpeg::visit(path, sequence(), options, visit),
        _ => return Err(heif.damaged("it has no description of a picture")),
    };
    let Some(meta) = Meta::parse(&content) else {
        return Err(heif.damaged("its description cannot be read"));
    };
    let Some(primary) = meta.primary else {
        if top.movie {
            return ffmpeg::visit(path, sequence(), options, visit);
        }
        return Err(heif.damaged("it does not say which of its pictures is meant"));
    };
    let image = heif.picture(&meta, primary)?;
    let (width, height) = (image.width, image.height);
    // There is nothing after one picture that a visitor could stop.
    let _ = visit(TimedFrame { image, time: 0.0, duration: 0.0 })?;
    Ok(SourceInfo {
        path: path.to_path_buf(),
        kind: MediaKind::Image,
        width,
        height,
        fps: None,
        frames: 1,
        total: Some(1),
        description: format!("{name}, read by ffmpeg"),
        sound: false,
        warnings: heif.warnings,
    })
}

impl Heif<'_> {
    fn damaged(&self, what: &str) -> Error {
        Error::input("E0808", format!("this is {}, but {what}", self.name))
            .at(self.path.display())
            .help("the file is damaged; export it again, as a JPEG or PNG")
    }

    fn refused(&self, what: &str) -> Error {
        Error::input("E0840", format!("this is {} that cannot be shown whole: {what}", self.name))
            .at(self.path.display())
            .help("export it as a JPEG or PNG from the program that shows it")
    }

    fn read(&mut self, offset: u64, length: u64) -> Result<Vec<u8>> {
        if offset.checked_add(length).is_none_or(|end| end > self.length) {
            return Err(Error::input("E0810", "the file is cut off: it ends inside the picture")
                .at(self.path.display())
                .help("the recording or download did not finish; fetch or export it again"));
        }
        let mut bytes = vec![0; length as usize];
        self.file
            .seek(SeekFrom::Start(offset))
            .and_then(|_| self.file.read_exact(&mut bytes))
            .map_err(|e| super::unreadable(self.path, e))?;
        Ok(bytes)
    }

    fn top(&mut self) -> Result<Top> {
        let mut top = Top { meta: None, movie: false, sequence: false };
        let mut at = 0;
        while self.length.saturating_sub(at) >= 8 {
            let head = self.read(at, 16.min(self.length - at))?;
            let mut bytes = Bytes(&head);
            let short = bytes.number(4).unwrap_or(0);
            let name = bytes.take(4).unwrap_or_default().to_vec();
            let (start, size) = match short {
                0 => (8, self.length - at),
                1 => (16, bytes.number(8).unwrap_or(0)),
                size => (8, size),
            };
            if size < start {
                break;
            }
            match name.as_slice() {
                b"ftyp" => {
                    let brand = self.read(at + start, 4.min(size - start))?;
                    let brands: [&[u8]; 6] = [b"avis", b"msf1", b"hevc", b"hevx", b"hevm", b"hevs"];
                    top.sequence = brands.contains(&brand.as_slice());
                }
                b"meta" if top.meta.is_none() => {
                    if size > META_LIMIT {
                        return Err(self.damaged("its description is absurdly long"));
                    }
                    top.meta = Some(self.read(at + start, size - start)?);
                }
                b"moov" => top.movie = true,
                _ => {}
            }
            at = at.saturating_add(size);
        }
        Ok(top)
    }

    /// The picture as it is to be seen: opacities and transformations included.
    fn picture(&mut self, meta: &Meta<'_>, id: u32) -> Result<RgbFrame> {
        let mut frame = self.pixels(meta, id, DEPTH_LIMIT)?;
        if let Some(opacity) = opacity(meta, id) {
            // Colours that were multiplied already are right before black.
            let multiplied = meta.targets(id, b"prem").contains(&opacity);
            let alpha = if multiplied { None } else { Some(self.opacities(meta, opacity)?) };
            match alpha {
                Some(alpha) if (alpha.width, alpha.height) == (frame.width, frame.height) => {
                    over_black(&mut frame, &alpha);
                }
                Some(_) => return Err(self.refused("its opacities have another size")),
                None => {}
            }
        }
        let Some(item) = meta.items.get(&id) else { return Ok(frame) };
        self.transformed(frame, item)
    }

    fn transformed(&self, mut frame: RgbFrame, item: &Item) -> Result<RgbFrame> {
        for (property, _) in &item.properties {
            frame = transform(frame, property)
                .ok_or_else(|| self.damaged("its aperture lies outside of it"))?;
        }
        Ok(frame)
    }

    /// The pixels of an item, without transformations of its own.
    fn pixels(&mut self, meta: &Meta<'_>, id: u32, depth: usize) -> Result<RgbFrame> {
        let Some(item) = meta.items.get(&id) else {
            return Err(self.damaged("a part of it is missing"));
        };
        self.known(item)?;
        match &item.kind {
            b"iden" if depth > 0 => {
                let [source] = *meta.targets(id, b"dimg") else {
                    return Err(self.damaged("a part of it is missing"));
                };
                let frame = self.pixels(meta, source, depth - 1)?;
                match meta.items.get(&source) {
                    Some(item) => self.transformed(frame, item),
                    None => Ok(frame),
                }
            }
            b"grid" => {
                let (grid, tiles) = self.grid(meta, id, item)?;
                let frames = self.coded(meta, &tiles, colours(item), false)?;
                self.joined(&grid, &frames)
            }
            _ => {
                let frames = self.coded(meta, &[id], colours(item), false)?;
                self.single(frames)
            }
        }
    }

    fn opacities(&mut self, meta: &Meta<'_>, id: u32) -> Result<RgbFrame> {
        let Some(item) = meta.items.get(&id) else {
            return Err(self.damaged("a part of it is missing"));
        };
        if &item.kind == b"grid" {
            let (grid, tiles) = self.grid(meta, id, item)?;
            let frames = self.coded(meta, &tiles, ColourTags::default(), true)?;
            return self.joined(&grid, &frames);
        }
        let frames = self.coded(meta, &[id], ColourTags::default(), true)?;
        self.single(frames)
    }

    fn single(&self, frames: Vec<RgbFrame>) -> Result<RgbFrame> {
        frames.into_iter().next().ok_or_else(|| self.refused("ffmpeg gave no picture"))
    }

    fn joined(&self, grid: &Grid, frames: &[RgbFrame]) -> Result<RgbFrame> {
        grid.join(frames).ok_or_else(|| self.refused("its tiles do not cover it"))
    }

    /// Refuses what must be known and is not.
    fn known(&self, item: &Item) -> Result<()> {
        for (property, essential) in &item.properties {
            if let (Property::Other(name), true) = (property.as_ref(), essential) {
                let what = format!("it needs `{}`, which is not known here", name.escape_ascii());
                return Err(self.refused(&what));
            }
        }
        Ok(())
    }

    /// A grid and its tiles, row by row.
    fn grid(&mut self, meta: &Meta<'_>, id: u32, item: &Item) -> Result<(Grid, Vec<u32>)> {
        let data = self.data(meta, item)?;
        let Some(grid) = Grid::parse(&data) else {
            return Err(self.damaged("its grid cannot be read"));
        };
        self.options.limits.check(self.path, grid.width.into(), grid.height.into(), 3)?;
        let tiles = meta.targets(id, b"dimg").to_vec();
        if tiles.len() != grid.rows * grid.columns {
            let what = format!("{} of {} tiles are there", tiles.len(), grid.rows * grid.columns);
            return Err(self.refused(&what));
        }
        // Before decoding: tiles far larger than the whole would be decoded for nothing.
        let size = tiles.first().and_then(|tile| meta.items.get(tile)).and_then(size);
        match size {
            Some((width, height)) if grid.covered(width as usize, height as usize) => {
                Ok((grid, tiles))
            }
            _ => Err(self.refused("its tiles do not cover it")),
        }
    }
}

/// The size that an item says it has.
fn size(item: &Item) -> Option<(u32, u32)> {
    item.properties.iter().find_map(|(property, _)| match property.as_ref() {
        Property::Size(width, height) => Some((*width, *height)),
        _ => None,
    })
}

/// The image of opacities that belongs to an item.
fn opacity(meta: &Meta<'_>, id: u32) -> Option<u32> {
    let kinds: [&[u8]; 2] =
        [b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", b"urn:mpeg:hevc:2015:auxid:1"];
    let belongs =
        meta.references.iter().filter(|(_, kind, to)| kind == b"auxl" && to.contains(&id));
    belongs.map(|(from, _, _)| *from).find(|from| {
        meta.items.get(from).is_some_and(|item| {
            item.properties.iter().any(|(property, _)| match property.as_ref() {
                Property::Auxiliary(kind) => kinds.contains(&kind.as_slice()),
                _ => false,
            })
        })
    })
}

/// What an item says about its colours. Of profiles only the one that phones use is known, by name.
fn colours(item: &Item) -> ColourTags {
    let mut tags = ColourTags::default();
    for (property, _) in &item.properties {
        match property.as_ref() {
            Property::Colour(primaries, transfer, matrix, full_range) => {
                let code = |code: u16| u8::try_from(code).unwrap_or(2);
                tags = ColourTags {
                    primaries: code(*primaries),
                    transfer: code(*transfer),
                    matrix: code(*matrix),
                    full_range: Some(*full_range),
                }
                .or(tags);
            }
            Property::Profile(profile) => {
                let wide: Vec<u8> = b"Display P3".iter().flat_map(|byte| [0, *byte]).collect();
                let names = |name: &[u8]| profile.windows(name.len()).any(|part| part == name);
                if names(b"Display P3") || names(&wide) {
                    let p3 = ColourTags { primaries: 12, transfer: 13, ..ColourTags::default() };
                    tags = tags.or(p3);
                }
            }
            _ => {}
        }
    }
    tags
}

#[cfg(test)]
mod tests;
