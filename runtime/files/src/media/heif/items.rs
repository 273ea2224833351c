//! The `meta` box of HEIF files: which items there are, what they are made of, where they lie
//! (ISO/IEC 14496-12 §8.11 and 23008-12).
//!
//! Works on the bytes of the box alone. Every count is bounded by the bytes that would have to be
//! there, nothing recurses, unknown boxes are passed over. What the items mean is decided in
//! `heif.rs`; nothing is decoded here.

use std::collections::BTreeMap;
use std::rc::Rc;

/// More items than any picture that is meant well: a grid has at most 65,536 tiles.
const ITEM_LIMIT: usize = 70_000;

/// A cursor over bytes of the file, big-endian.
#[derive(Clone, Copy)]
pub(super) struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// An unsigned number of up to eight bytes.
    pub(super) fn number(&mut self, bytes: usize) -> Option<u64> {
        let taken = self.take(bytes)?;
        (bytes <= 8).then(|| taken.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn id(&mut self, wide: bool) -> Option<u32> {
        self.number(if wide { 4 } else { 2 }).map(|id| id as u32)
    }

    /// Version and flags of a full box.
    fn version(&mut self) -> Option<(u8, u32)> {
        let word = self.number(4)? as u32;
        Some(((word >> 24) as u8, word & 0xff_ffff))
    }

    /// The next box: its name and content.
    fn next_box(&mut self) -> Option<([u8; 4], Bytes<'a>)> {
        let size = self.number(4)? as usize;
        let name = self.take(4)?.try_into().ok()?;
        let body = match size {
            0 => self.0.len(),
            1 => usize::try_from(self.number(8)?.checked_sub(16)?).ok()?,
            _ => size.checked_sub(8)?,
        };
        Some((name, Bytes(self.take(body)?)))
    }
}

/// What a property says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Property {
    /// Width and height.
    Size(u32, u32),
    /// Quarter turns against the clock.
    Rotation(u8),
    /// Left and right are exchanged; otherwise top and bottom.
    Mirror { sideways: bool },
    /// Width, height, and offsets of the middle, each as a fraction.
    Aperture([(i64, i64); 4]),
    /// `nclx`: primaries, transfer, matrix, full range.
    Colour(u16, u16, u16, bool),
    /// An ICC profile.
    Profile(Vec<u8>),
    /// Parameter sets of HEVC with their start codes, and the bytes of a length.
    Hevc { sets: Vec<u8>, length: usize },
    /// Configuration units of AV1.
    Av1(Vec<u8>),
    /// What an auxiliary item is, as a URN.
    Auxiliary(Vec<u8>),
    /// Something else, that a reader may pass over unless it is marked as essential.
    Other([u8; 4]),
}

/// One piece of an item's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub offset: u64,
    /// Zero: to the end.
    pub length: u64,
}

/// Where an item's data lies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Location {
    /// 0: the file, 1: the `idat` box, 2: another item.
    pub method: u8,
    /// Zero for this very file.
    pub elsewhere: bool,
    pub extents: Vec<Extent>,
}

/// One item.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Item {
    pub kind: [u8; 4],
    /// In the order in which they apply, with whether a reader must know them.
    pub properties: Vec<(Rc<Property>, bool)>,
    pub location: Location,
}

/// The whole box.
#[derive(Clone, Debug, Default)]
pub(super) struct Meta<'a> {
    pub primary: Option<u32>,
    pub items: BTreeMap<u32, Item>,
    /// From an item, by this kind, to others.
    pub references: Vec<(u32, [u8; 4], Vec<u32>)>,
    pub data: &'a [u8],
}

impl<'a> Meta<'a> {
    /// From the content of a `meta` box; none when it is damaged.
    pub(super) fn parse(content: &'a [u8]) -> Option<Self> {
        let mut meta = Self::default();
        let mut bytes = Bytes(content);
        bytes.version()?;
        let (mut properties, mut associations) = (Vec::new(), Vec::new());
        while let Some((name, body)) = bytes.next_box() {
            match &name {
                b"pitm" => meta.primary = Some(primary(body)?),
                b"iinf" => meta.list(body)?,
                b"iloc" => meta.locate(body)?,
                b"iref" => meta.refer(body)?,
                b"idat" => meta.data = body.0,
                b"iprp" => {
                    let mut inside = body;
                    while let Some((name, body)) = inside.next_box() {
                        match &name {
                            b"ipco" => properties = container(body)?,
                            b"ipma" => associations.extend(associate(body)?),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        for (id, index, essential) in associations {
            // Zero associates nothing.
            let Some(index) = index.checked_sub(1) else { continue };
            let property = properties.get(index)?.clone();
            meta.items.entry(id).or_default().properties.push((property, essential));
        }
        Some(meta)
    }

    /// Items that `from` refers to by `kind`.
    pub(super) fn targets(&self, from: u32, kind: &[u8; 4]) -> &[u32] {
        let found = self.references.iter().find(|(f, k, _)| *f == from && k == kind);
        found.map_or(&[], |(_, _, to)| to)
    }

    fn list(&mut self, mut body: Bytes<'_>) -> Option<()> {
        let (version, _) = body.version()?;
        body.number(if version == 0 { 2 } else { 4 })?;
        while let Some((name, mut entry)) = body.next_box() {
            let (version, _) = entry.version()?;
            // Earlier versions have no kind: nothing that a picture is made of.
            if &name != b"infe" || version < 2 {
                continue;
            }
            let id = entry.id(version > 2)?;
            entry.number(2)?;
            self.items.entry(id).or_default().kind = entry.take(4)?.try_into().ok()?;
            if self.items.len() > ITEM_LIMIT {
                return None;
            }
        }
        Some(())
    }

    fn locate(&mut self, mut body: Bytes<'_>) -> Option<()> {
        let (version, _) = body.version()?;
        let sizes = body.number(2)? as usize;
        let [offset, length, base, index] = [12, 8, 4, 0].map(|shift| sizes >> shift & 15);
        let index = if version == 0 { 0 } else { index };
        let count = body.number(if version < 2 { 2 } else { 4 })?;
        let mut total = 0;
        for _ in 0..count {
            let id = body.id(version >= 2)?;
            let method = if version == 0 { 0 } else { body.number(2)? as u8 & 15 };
            let elsewhere = body.number(2)? != 0;
            let start = body.number(base)?;
            let pieces = body.number(2)?;
            let mut extents = Vec::new();
            for _ in 0..pieces {
                body.number(index)?;
                let offset = start.checked_add(body.number(offset)?)?;
                let length = body.number(length)?;
                extents.push(Extent { offset, length });
                // Fields of no bytes would make pieces out of nothing.
                total += 1;
                if total > ITEM_LIMIT {
                    return None;
                }
            }
            if self.items.len() > ITEM_LIMIT {
                return None;
            }
            self.items.entry(id).or_default().location = Location { method, elsewhere, extents };
        }
        Some(())
    }

    fn refer(&mut self, mut body: Bytes<'_>) -> Option<()> {
        let (version, _) = body.version()?;
        while let Some((kind, mut entry)) = body.next_box() {
            let from = entry.id(version > 0)?;
            let count = entry.number(2)?;
            let to: Option<Vec<u32>> = (0..count).map(|_| entry.id(version > 0)).collect();
            self.references.push((from, kind, to?));
        }
        Some(())
    }
}

fn primary(mut body: Bytes<'_>) -> Option<u32> {
    let (version, _) = body.version()?;
    body.id(version > 0)
}

/// Which items have which properties: item, place from 1, whether it is essential.
fn associate(mut body: Bytes<'_>) -> Option<Vec<(u32, usize, bool)>> {
    let (version, flags) = body.version()?;
    let count = body.number(4)?;
    let mut found = Vec::new();
    for _ in 0..count {
        let id = body.id(version > 0)?;
        for _ in 0..body.number(1)? {
            let (value, top) = match flags & 1 {
                1 => (body.number(2)?, 0x8000),
                _ => (body.number(1)?, 0x80),
            };
            found.push((id, (value & (top - 1)) as usize, value & top != 0));
        }
    }
    Some(found)
}

fn container(mut body: Bytes<'_>) -> Option<Vec<Rc<Property>>> {
    let mut found = Vec::new();
    while let Some((name, content)) = body.next_box() {
        // Shared, as many items may have it.
        found.push(Rc::new(property(name, content)?));
    }
    Some(found)
}

fn property(name: [u8; 4], mut body: Bytes<'_>) -> Option<Property> {
    Some(match &name {
        b"ispe" => {
            body.version()?;
            Property::Size(body.number(4)? as u32, body.number(4)? as u32)
        }
        b"irot" => Property::Rotation(body.number(1)? as u8 & 3),
        b"imir" => Property::Mirror { sideways: body.number(1)? & 1 == 1 },
        b"clap" => {
            let mut fraction = || {
                let over = body.number(4)? as u32;
                Some((i64::from(over as i32), body.number(4)? as i64))
            };
            Property::Aperture([fraction()?, fraction()?, fraction()?, fraction()?])
        }
        b"colr" => match body.take(4)? {
            b"nclx" => {
                let mut code = || body.number(2).map(|code| code as u16);
                let (primaries, transfer, matrix) = (code()?, code()?, code()?);
                Property::Colour(primaries, transfer, matrix, body.number(1)? & 0x80 != 0)
            }
            b"prof" | b"rICC" => Property::Profile(body.0.to_vec()),
            _ => Property::Other(name),
        },
        b"hvcC" => hevc(body)?,
        b"av1C" => {
            body.take(4)?;
            Property::Av1(body.0.to_vec())
        }
        b"auxC" => {
            body.version()?;
            let end = body.0.iter().position(|byte| *byte == 0).unwrap_or(body.0.len());
            Property::Auxiliary(body.0[..end].to_vec())
        }
        _ => Property::Other(name),
    })
}

/// The decoder configuration of HEVC (ISO/IEC 14496-15 §8.3).
fn hevc(mut body: Bytes<'_>) -> Option<Property> {
    body.take(21)?;
    let length = (body.number(1)? & 3) as usize + 1;
    let arrays = body.number(1)?;
    let mut sets = Vec::new();
    for _ in 0..arrays {
        body.number(1)?;
        for _ in 0..body.number(2)? {
            let size = body.number(2)? as usize;
            sets.extend([0, 0, 0, 1]);
            sets.extend(body.take(size)?);
        }
    }
    Some(Property::Hevc { sets, length })
}
