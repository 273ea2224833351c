//! Shapes of the plane as signed distances: below 0 inside, above 0 outside, in units of the world.
//!
//! A frame is painted from a few dozen of these. Every form also knows a rectangle beyond which it
//! covers nothing, so that only pixels near it are computed. What is painted where, and in which
//! colours, is said in `scene`.

use crate::arithmetic::{LANES, Lanes, clamp, floor, fract, least, length, most};

/// A rectangle, or all of the plane where sides are infinite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rect {
    /// Smallest x.
    pub left: f32,
    /// Smallest y; y points downwards.
    pub top: f32,
    /// Largest x.
    pub right: f32,
    /// Largest y.
    pub bottom: f32,
}

impl Rect {
    /// The whole plane.
    pub const PLANE: Self = Self {
        left: f32::NEG_INFINITY,
        top: f32::NEG_INFINITY,
        right: f32::INFINITY,
        bottom: f32::INFINITY,
    };

    /// The rectangle around `at` that reaches `half` to each side.
    pub fn around(at: [f32; 2], half: [f32; 2]) -> Self {
        Self {
            left: at[0] - half[0],
            top: at[1] - half[1],
            right: at[0] + half[0],
            bottom: at[1] + half[1],
        }
    }

    /// What both have in common; empty rectangles have their sides exchanged.
    pub fn and(self, other: Self) -> Self {
        Self {
            left: self.left.max(other.left),
            top: self.top.max(other.top),
            right: self.right.min(other.right),
            bottom: self.bottom.min(other.bottom),
        }
    }

    /// The smallest rectangle that holds both.
    pub fn or(self, other: Self) -> Self {
        Self {
            left: self.left.min(other.left),
            top: self.top.min(other.top),
            right: self.right.max(other.right),
            bottom: self.bottom.max(other.bottom),
        }
    }
}

/// A shape. Lengths are in units of the world: the frame of a shot without zoom is 2 high.
#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    /// All of the plane.
    Everywhere,
    /// Where `across · (x, y)` is below `at`.
    Half { across: [f32; 2], at: f32 },
    /// A disc.
    Disc { at: [f32; 2], radius: f32 },
    /// An ellipse.
    Ellipse { at: [f32; 2], half: [f32; 2] },
    /// A rectangle with sharp corners.
    Rectangle { at: [f32; 2], half: [f32; 2] },
    /// A rectangle with round corners of radius `corner`.
    Rounded { at: [f32; 2], half: [f32; 2], corner: f32 },
    /// A line with round ends.
    Stroke { from: [f32; 2], to: [f32; 2], radius: f32 },
    /// The outline of a head: a superellipse whose lower half narrows by `taper`.
    Skull { half: [f32; 2], exponent: f32, taper: f32 },
    /// A pointed ear between `top` and `bottom`, which reaches its full half width 0.22 below its
    /// top.
    Spire { half: f32, top: f32, bottom: f32 },
    /// A mouth: the parabola `lift - bend·x²`, `half` thick to each side, as far as `reach`.
    Smile { lift: f32, bend: f32, half: f32, reach: f32 },
    /// What is above a wavy hairline at `at`, waves following the turned head.
    Fringe { at: f32, width: f32, turn: f32 },
    /// A disc with a wavy rim.
    Curls { at: [f32; 2], radius: f32, wave: f32 },
    /// A crown of spikes above `bottom` around a head of these half sizes.
    Spikes { half: [f32; 2], bottom: f32 },
    /// Below a wavy horizon.
    Hills { at: f32 },
    /// The mortar of a wall, moved along by `phase`.
    Mortar { phase: f32 },
    /// One dot in each cell of a grid, at a place that depends on the cell.
    Stars,
    /// Within `half` of the rim of a form.
    Rim { of: Box<Form>, half: f32 },
    /// A form and its mirror image: `of` is asked at |x|.
    Mirrored(Box<Form>),
    /// A form moved to `at` and widened by `stretch`.
    Placed { at: [f32; 2], stretch: f32, of: Box<Form> },
    /// What all have in common.
    All(Vec<Form>),
    /// What any of them covers.
    Any(Vec<Form>),
}

impl Form {
    /// `self`, seen at |x|.
    pub fn mirrored(self) -> Self {
        Self::Mirrored(Box::new(self))
    }

    /// `self`, moved and widened.
    pub fn placed(self, at: [f32; 2], stretch: f32) -> Self {
        Self::Placed { at, stretch, of: Box::new(self) }
    }

    /// What `self` and `other` have in common.
    pub fn and(self, other: Self) -> Self {
        match self {
            Self::All(mut forms) => {
                forms.push(other);
                Self::All(forms)
            }
            one => Self::All(vec![one, other]),
        }
    }

    /// Signed distances of eight points.
    pub fn distance(&self, x: Lanes, y: Lanes) -> Lanes {
        match self {
            Self::Everywhere => Lanes::all(-1e6),
            Self::Half { across, at } => x * across[0] + y * across[1] - *at,
            Self::Disc { at, radius } => (x - at[0]).length(y - at[1]) - *radius,
            Self::Ellipse { at, half } => {
                let (x, y) = (x - at[0], y - at[1]);
                let square = x * x / (half[0] * half[0]) + y * y / (half[1] * half[1]);
                (square.map(f32::sqrt) - 1.0) * least(half[0], half[1])
            }
            Self::Rectangle { at, half } => {
                ((x - at[0]).abs() - half[0]).most((y - at[1]).abs() - half[1])
            }
            Self::Rounded { at, half, corner } => {
                let x = (x - at[0]).abs() - half[0] + *corner;
                let y = (y - at[1]).abs() - half[1] + *corner;
                let zero = Lanes::all(0.0);
                x.most(zero).length(y.most(zero)) + x.most(y).least(zero) - *corner
            }
            Self::Stroke { from, to, radius } => {
                let (x, y) = (x - from[0], y - from[1]);
                let (along, down) = (to[0] - from[0], to[1] - from[1]);
                let part = (x * along + y * down) / (along * along + down * down);
                let part = part.map(|part| clamp(part, 0.0, 1.0));
                (x - part * along).length(y - part * down) - *radius
            }
            Self::Skull { half, exponent, taper } => skull(x, y, *half, *exponent, *taper),
            Self::Spire { half, top, bottom } => {
                let narrow = y.map(|y| half * clamp((y - top) / 0.22, 0.0, 1.0));
                (x.abs() - narrow).most((y - *bottom).most(-y + *top))
            }
            Self::Smile { lift, bend, half, reach } => {
                ((y - *lift + x * x * *bend).abs() - *half).most(x.abs() - *reach)
            }
            Self::Fringe { at, width, turn } => {
                let wave = ((x / *width - *turn) * 5.0).cos();
                y - *at - wave * 0.05
            }
            Self::Curls { at, radius, wave } => {
                let (x, y) = (x - at[0], y - at[1]);
                let rim = (y.atan2(x) * 14.0).sin() * *wave + *radius;
                x.length(y) - rim
            }
            Self::Spikes { half, bottom } => {
                let tooth = (x.atan2(-y) * 1.75).map(|turn| (2.0 * fract(turn) - 1.0).abs());
                let rim = tooth * 0.34 + 1.06;
                let out = (x / (half[0] * 1.02)).length(y / half[1]) - rim;
                out.most(y - *bottom) * half[0]
            }
            Self::Hills { at } => -y + *at + (x * 3.0).sin() * 0.06,
            Self::Mortar { phase } => x.with(y, |x, y| mortar(x, y, *phase)),
            Self::Stars => x.with(y, star),
            Self::Rim { of, half } => of.distance(x, y).abs() - *half,
            Self::Mirrored(of) => of.distance(x.abs(), y),
            Self::Placed { at, stretch, of } => of.distance((x - at[0]) / *stretch, y - at[1]),
            Self::All(forms) => join(forms, x, y, Lanes::most),
            Self::Any(forms) => join(forms, x, y, Lanes::least),
        }
    }

    /// A rectangle beyond which distances are above `pad`.
    pub fn bounds(&self, pad: f32) -> Rect {
        // Distances of ellipses and heads are scaled by the smaller half size.
        let grown = |half: [f32; 2]| {
            let factor = 1.0 + pad / least(half[0], half[1]);
            [half[0] * factor, half[1] * factor]
        };
        match self {
            Self::Everywhere | Self::Mortar { .. } | Self::Stars => Rect::PLANE,
            Self::Half { across: [x, y], at } => {
                // Only edges along an axis bound anything.
                let mut rect = Rect::PLANE;
                match (*x, *y) {
                    (x, 0.0) if x > 0.0 => rect.right = (at + pad) / x,
                    (x, 0.0) if x < 0.0 => rect.left = (at + pad) / x,
                    (0.0, y) if y > 0.0 => rect.bottom = (at + pad) / y,
                    (0.0, y) if y < 0.0 => rect.top = (at + pad) / y,
                    _ => {}
                }
                rect
            }
            Self::Disc { at, radius } => Rect::around(*at, [radius + pad; 2]),
            Self::Ellipse { at, half } => Rect::around(*at, grown(*half)),
            Self::Rectangle { at, half } | Self::Rounded { at, half, .. } => {
                Rect::around(*at, [half[0] + pad, half[1] + pad])
            }
            Self::Stroke { from, to, radius } => {
                let reach = [radius + pad; 2];
                Rect::around(*from, reach).or(Rect::around(*to, reach))
            }
            Self::Skull { half, .. } => Rect::around([0.0; 2], grown(*half)),
            Self::Spire { half, top, bottom } => {
                Rect { left: -half - pad, top: top - pad, right: half + pad, bottom: bottom + pad }
            }
            Self::Smile { lift, bend, half, reach } => {
                let reach = reach + pad;
                let ends = bend * reach * reach;
                Rect {
                    left: -reach,
                    top: lift - most(ends, 0.0) - half - pad,
                    right: reach,
                    bottom: lift + most(-ends, 0.0) + half + pad,
                }
            }
            Self::Fringe { at, .. } => Rect { bottom: at + 0.05 + pad, ..Rect::PLANE },
            Self::Curls { at, radius, wave } => Rect::around(*at, [radius + wave + pad; 2]),
            Self::Spikes { half, bottom } => {
                let factor = 1.41 + pad / half[0];
                let rect = Rect::around([0.0; 2], [half[0] * 1.02 * factor, half[1] * factor]);
                Rect { bottom: bottom + pad / half[0], ..rect }
            }
            Self::Hills { at } => Rect { top: at - 0.06 - pad, ..Rect::PLANE },
            Self::Rim { of, half } => of.bounds(pad + half),
            Self::Mirrored(of) => {
                let rect = of.bounds(pad);
                Rect { left: -rect.right, ..rect }
            }
            Self::Placed { at, stretch, of } => {
                let rect = of.bounds(pad);
                Rect {
                    left: rect.left * stretch + at[0],
                    top: rect.top + at[1],
                    right: rect.right * stretch + at[0],
                    bottom: rect.bottom + at[1],
                }
            }
            Self::All(forms) => {
                forms.iter().map(|form| form.bounds(pad)).fold(Rect::PLANE, Rect::and)
            }
            Self::Any(forms) => {
                let all = forms.iter().map(|form| form.bounds(pad)).reduce(Rect::or);
                all.unwrap_or(Rect::PLANE)
            }
        }
    }
}

fn join(forms: &[Form], x: Lanes, y: Lanes, with: fn(Lanes, Lanes) -> Lanes) -> Lanes {
    let all = forms.iter().map(|form| form.distance(x, y)).reduce(with);
    all.unwrap_or(Lanes::all(f32::MAX))
}

/// Distance to a superellipse; the exponents 2 and 4 need no power.
fn skull(x: Lanes, y: Lanes, half: [f32; 2], exponent: f32, taper: f32) -> Lanes {
    let v = y / half[1];
    let width = v.map(|v| most(half[0] * (1.0 - taper * clamp(v, 0.0, 1.3)), 0.05));
    let (u, v) = (x.abs() / width, v.abs());
    let radius = if exponent == 2.0 {
        u.length(v)
    } else if exponent == 4.0 {
        let (u, v) = (u * u, v * v);
        u.length(v).map(f32::sqrt)
    } else {
        (u.pow(exponent) + v.pow(exponent)).pow(1.0 / exponent)
    };
    (radius - 1.0) * least(half[0], half[1])
}

fn mortar(x: f32, y: f32, phase: f32) -> f32 {
    let row = floor(y / 0.24);
    // Every other row is moved by half a brick.
    let (down, along) = (fract(y / 0.24), fract(x / 0.48 + fract(row * 0.5) + phase));
    least(least(down, 1.0 - down) * 0.24, least(along, 1.0 - along) * 0.48) - 0.022
}

fn star(x: f32, y: f32) -> f32 {
    let (column, row) = (floor(x / 0.4), floor(y / 0.4));
    let mut hash = (column as i32).wrapping_mul(73_856_093) as u32;
    hash ^= (row as i32).wrapping_mul(19_349_663) as u32;
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(0x5bd1_e995);
    hash ^= hash >> 15;
    let place = (hash & 0xffff) as f32 / 65536.0;
    let x = x - (column + 0.2 + 0.6 * place) * 0.4;
    length(x, y - (row + 0.2 + 0.6 * fract(place * 7.0)) * 0.4) - 0.035
}

const _: () = assert!(LANES == 8, "the comments speak of eight pixels");
