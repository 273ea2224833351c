//! What the judge reads on true clips of many people, and how fast it is.
//!
//!     cargo run --release -p anyid-world --example judge -- [VERSION] [PEOPLE] [FIRST] [SPOILED]
//!
//! Prints, for every feature, how often it was visible and how often it was read rightly, from first
//! and last frame of one clip of each person; then frames a second on one thread. With a fourth
//! number other than 0 the frames are spoiled as a poor codec would do it: each pixel is the mean of
//! nine, and up to so many levels of noise are added.

use anyid_world::{Attribute, Feature, Judge, Painter, SIDE, Split, View, World};
use std::collections::BTreeMap;
use std::error::Error;
use std::time::{Duration, Instant};

/// Blurs a frame and adds noise of up to `levels`.
fn spoil(frame: &[u8], levels: i32, seed: u64) -> Vec<u8> {
    let side = SIDE as i32;
    let mut noise = seed;
    let value = |at: i32| {
        let (pixel, part) = (at / 3, at % 3);
        let near = |by: i32| {
            let x = (pixel % side + by % 3 - 1).clamp(0, side - 1);
            let y = (pixel / side + by / 3 - 1).clamp(0, side - 1);
            i32::from(frame[((y * side + x) * 3 + part) as usize])
        };
        // Knuth's generator.
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let noise = (noise >> 33) as i32 % (2 * levels + 1) - levels;
        ((0..9).map(near).sum::<i32>() / 9 + noise).clamp(0, 255) as u8
    };
    (0..frame.len() as i32).map(value).collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |otherwise: u64| match arguments.next() {
        Some(text) => text.parse(),
        None => Ok(otherwise),
    };
    let (version, people, first, spoiled) = (number(2)?, number(400)?, number(0)?, number(0)?);
    let world = World::new(u32::try_from(version)?)?;
    let mut judge = Judge::new(world);
    let mut painter = Painter::new(SIDE)?;
    let mut tally: BTreeMap<Feature, [u32; 2]> = BTreeMap::new();
    let (mut judging, mut painting) = (Duration::ZERO, Duration::ZERO);
    let (mut colours, mut errors) = ([(0.0, 0u32); 3], Vec::new());
    for number in Split::HeldOut.some(first, people)? {
        let group = world.group(number)?;
        let clip = group.clip(0)?;
        let begun = Instant::now();
        let times = [0.0, 1.0];
        let frames = times
            .map(|time| painter.frame(&world.scene(&group.identity, &clip, View::Frame(time))));
        painting += begun.elapsed();
        let frames = match i32::try_from(spoiled)? {
            0 => frames,
            levels => frames.map(|frame| spoil(&frame, levels, number)),
        };
        let begun = Instant::now();
        let frames = [frames[0].as_slice(), &frames[1]];
        let verdict = judge.clip(&frames, SIDE, &times, &group.identity, &clip)?;
        judging += begun.elapsed();
        for reading in verdict.readings.iter().filter(|reading| reading.visible) {
            let [visible, right] = tally.entry(reading.feature).or_default();
            *visible += 1;
            *right += u32::from(reading.right());
        }
        for (sum, colour) in colours.iter_mut().zip(verdict.colours) {
            sum.0 += colour.unwrap_or(0.0);
            sum.1 += u32::from(colour.is_some());
        }
        errors.extend(verdict.fits.iter().map(|fit| fit.error));
    }
    let share = |tally: &mut dyn Iterator<Item = &[u32; 2]>| {
        let sums = tally.fold([0, 0], |sums, one| [sums[0] + one[0], sums[1] + one[1]]);
        format!("{:.4} of {}", f64::from(sums[1]) / f64::from(sums[0]), sums[0])
    };
    for (feature, one) in &tally {
        println!("{:16} {}", feature.name(), share(&mut std::iter::once(one)));
    }
    let large = |feature: &Feature| matches!(feature, Feature::Attribute(one) if Attribute::LARGE.contains(one));
    let attribute = |feature: &Feature| matches!(feature, Feature::Attribute(_));
    let pooled = |with: &dyn Fn(&Feature) -> bool| {
        share(&mut tally.iter().filter(|(feature, _)| with(feature)).map(|(_, one)| one))
    };
    println!("large            {}", pooled(&large));
    println!("small            {}", pooled(&|one| attribute(one) && !large(one)));
    println!("elements         {}", pooled(&|one| !attribute(one)));
    println!("all              {}", pooled(&|_| true));
    for (name, (sum, count)) in ["skin", "hair", "clothes"].iter().zip(colours) {
        println!("{name:16} colour off by {:.4}", sum / f64::from(count.max(1)));
    }
    errors.sort_by(f64::total_cmp);
    let of = |part: usize| errors[(errors.len() - 1) * part / 100];
    println!("fits             median {:.6}, 99 % {:.6}, worst {:.6}", of(50), of(99), of(100));
    let second = |duration: Duration| (2 * people) as f64 / duration.as_secs_f64();
    println!("frames a second  {:.0} judged, {:.0} painted", second(judging), second(painting));
    Ok(())
}
