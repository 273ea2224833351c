//! How often a target shows what its primary hides, and an auxiliary reference tells it.
//!
//!     cargo run --release -p anyid-world --example hidden -- [VERSION] [SETS]
//!
//! For every attribute: the share of sets of three references in which it is hidden, and in which one
//! of the auxiliary references shows it.

use anyid_world::{Attribute, FRAMES, Sampling, Split, View, Visibility, World};
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |otherwise: u64| match arguments.next() {
        Some(text) => text.parse(),
        None => Ok(otherwise),
    };
    let (version, sets) = (number(World::LATEST.into())?, number(1000)?);
    let world = World::new(u32::try_from(version)?)?;
    let sampling = Sampling { references: 3..=3, ..Sampling::new(Split::Train.groups()) };
    let frames: Vec<View> = (0..FRAMES).map(|at| View::frame(at, FRAMES)).collect();
    let mut visibility = Visibility::new();
    let (mut hidden, mut told) = ([0u32; Attribute::ALL.len()], [0u32; Attribute::ALL.len()]);
    for index in 0..sets {
        for one in world.sample(&sampling, 1, index)?.hidden(&mut visibility, &frames)? {
            hidden[one.attribute as usize] += 1;
            told[one.attribute as usize] += u32::from(!one.shown_by.is_empty());
        }
    }
    for attribute in Attribute::ALL {
        let share = |count: &[u32]| f64::from(count[attribute as usize]) / sets as f64;
        println!("{:14} hidden {:.3}, told {:.3}", attribute.name(), share(&hidden), share(&told));
    }
    Ok(())
}
