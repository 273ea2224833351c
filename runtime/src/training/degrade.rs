//! Pictures made worse as an autoencoder makes them: blurred, and with noise. Whoever is to read what
//! comes out of one learns from such pictures as well.
//!
//! What happens to a picture follows from the draw of its sample alone.

use super::draws::Draw;

/// How many samples are left as they are.
const CLEAN: f64 = 0.25;
/// Largest standard deviation of the noise, of pixels from −1 to 1: about ten levels of 255.
const NOISE: f64 = 0.08;

/// Makes the planes of a sample worse, each of `sides` rows and columns. Every pixel is mixed with the mean
/// of the nine around it, once or twice; then comes noise. How much is uniform, and nothing for a quarter of
/// the samples.
pub fn degrade(pixels: &mut [f32], sides: [usize; 2], draw: &Draw) {
    let [clean, blur, noise] = draw.shares();
    if clean < CLEAN {
        return;
    }
    for share in [2.0 * blur, 2.0 * blur - 1.0] {
        let share = share.clamp(0.0, 1.0) as f32;
        if share > 0.0 {
            let plane = sides[0] * sides[1];
            pixels.chunks_exact_mut(plane).for_each(|plane| soften(plane, sides, share));
        }
    }
    let mut drawn = vec![0f32; pixels.len()];
    draw.fill_noise(&mut drawn);
    let size = (NOISE * noise) as f32;
    for (pixel, drawn) in pixels.iter_mut().zip(drawn) {
        *pixel = (*pixel + size * drawn).clamp(-1.0, 1.0);
    }
}

/// Mixes each pixel with the mean of those around it, itself included; the border is repeated.
fn soften(plane: &mut [f32], [rows, columns]: [usize; 2], share: f32) {
    let before = plane.to_vec();
    let near = |at: usize, count: usize| [at.saturating_sub(1), at, (at + 1).min(count - 1)];
    for row in 0..rows {
        for column in 0..columns {
            let mut sum = 0.0;
            for y in near(row, rows) {
                for x in near(column, columns) {
                    sum += before[y * columns + x];
                }
            }
            let pixel = &mut plane[row * columns + column];
            *pixel += share * (sum / 9.0 - *pixel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::draws::Levels;
    use super::super::settings::TrainSettings;
    use super::*;

    fn draw(epoch: u64) -> Draw {
        let train = TrainSettings::default();
        Draw::of(&train, &Levels::new(&train), "s", epoch, 0)
    }

    #[test]
    fn a_quarter_stays_as_it_is_and_the_rest_is_blurred_and_noisy() {
        // A step from dark to light, in two planes.
        let plane = |at: usize| if at % 8 < 4 { -0.5 } else { 0.5 };
        let picture: Vec<f32> = (0..128).map(plane).collect();
        let (mut clean, mut worst, mut off) = (0, 0.0f32, 0.0);
        for epoch in 0..1000 {
            let mut own = picture.clone();
            degrade(&mut own, [8, 8], &draw(epoch));
            let mut again = picture.clone();
            degrade(&mut again, [8, 8], &draw(epoch));
            assert_eq!(own, again);
            clean += u32::from(own == picture);
            let apart = own.iter().zip(&picture).map(|(a, b)| (a - b).abs());
            worst = apart.clone().fold(worst, f32::max);
            // Far from the step there is noise alone, and its mean is 0.
            off += f64::from((own[0] - picture[0]) + (own[127] - picture[127]));
        }
        // Four standard errors each.
        assert!((clean as i32 - 250).abs() < 55, "{clean}");
        assert!(worst > 0.4 && off.abs() < 7.2, "{worst} {off}");
    }

    #[test]
    fn a_blur_is_the_mean_of_nine() {
        let mut plane = [0.0; 25];
        plane[12] = 9.0;
        soften(&mut plane, [5, 5], 1.0);
        assert!((0..25).all(|at| {
            let near = (1..4).contains(&(at % 5)) && (1..4).contains(&(at / 5));
            (plane[at] - f32::from(u8::from(near))).abs() < 1e-5
        }));
        let mut flat = [0.25; 6];
        soften(&mut flat, [2, 3], 0.7);
        assert!(flat.iter().all(|value| (value - 0.25).abs() < 1e-6));
    }
}
