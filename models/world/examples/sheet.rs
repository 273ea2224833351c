//! A contact sheet of sets, as PPM on standard output: references, a gap, first and last frame of the
//! target. The prompts go to standard error.
//!
//!     cargo run --release -p anyid-world --example sheet -- [VERSION] [SETS] [SEED] [SIZE] > sheet.ppm

use anyid_world::{SIDE, Sampling, Split, World, sheet};
use std::error::Error;
use std::io::Write;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |otherwise: u64| match arguments.next() {
        Some(text) => text.parse(),
        None => Ok(otherwise),
    };
    let (version, sets, seed, size) = (number(2)?, number(12)?, number(1)?, number(SIDE as u64)?);
    let (world, size) = (World::new(u32::try_from(version)?)?, usize::try_from(size)?);
    let sampling = Sampling { references: 3..=3, ..Sampling::new(Split::Train.groups()) };
    let mut rows = Vec::new();
    for index in 0..sets {
        let set = world.sample(&sampling, seed, index)?;
        eprintln!("{index:3} {}", set.prompt.text);
        rows.push(set.row(size)?);
    }
    let picture = sheet(&rows, size, 2)?;
    let mut out = std::io::stdout().lock();
    write!(out, "P6\n{} {}\n255\n", picture.width, picture.height)?;
    out.write_all(&picture.pixels)?;
    Ok(())
}
