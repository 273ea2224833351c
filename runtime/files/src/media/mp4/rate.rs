//! Setting an exact rate in a file that the muxing library wrote.
//!
//! The library's clock is fixed at 90 kHz, which most rates do not divide; the few numbers of its
//! index that name the clock are replaced in place. Files of others are never changed.

use super::boxes::{find, word};
use crate::error::{Error, Result};

/// Sets the clock of the single video track that the writing library made: `timescale` ticks a
/// second and `delta` ticks a frame. The frames must have been written `delta` ticks apart.
///
/// # Errors
/// `E0824` when the boxes are not where the library puts them (a broken invariant).
pub(in crate::media) fn set_rate(
    file: &mut [u8],
    timescale: u32,
    delta: u32,
    frames: u32,
) -> Result<()> {
    let media = u64::from(delta) * u64::from(frames);
    let movie = media * 1000 / u64::from(timescale);
    let patches = || -> Option<Vec<(usize, u32)>> {
        let media = u32::try_from(media).ok()?;
        let movie = u32::try_from(movie).ok()?;
        let at = |path: &[&[u8; 4]]| -> Option<usize> {
            let atom = find(file, 0, file.len(), path)?;
            // Version 0 layouts only; the library takes version 1 beyond 2^32 ticks.
            (file.get(atom.body) == Some(&0)).then_some(atom.body)
        };
        let mvhd = at(&[b"moov", b"mvhd"])?;
        let tkhd = at(&[b"moov", b"trak", b"tkhd"])?;
        let mdhd = at(&[b"moov", b"trak", b"mdia", b"mdhd"])?;
        let stts = at(&[b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stts"])?;
        // One run of equal durations, or the frames were not equally spaced.
        let even = word(file, stts + 4)? == 1 && word(file, stts + 8)? == frames;
        let movie_clock = word(file, mvhd + 12)? == 1000;
        (even && movie_clock).then(|| {
            vec![
                (mvhd + 16, movie),
                (tkhd + 20, movie),
                (mdhd + 12, timescale),
                (mdhd + 16, media),
                (stts + 12, delta),
            ]
        })
    };
    let Some(patches) = patches() else {
        return Err(Error::internal("E0824", "the MP4 index is not laid out as expected"));
    };
    for (at, value) in patches {
        let Some(place) = file.get_mut(at..at + 4) else {
            return Err(Error::internal("E0824", "the MP4 index is shorter than expected"));
        };
        place.copy_from_slice(&value.to_be_bytes());
    }
    Ok(())
}
