//! What a launch is: a kernel, the pieces of memory that it works on, and its numbers.
//!
//! Operands are ranges of a few objects. Ranges of a launch that share a byte, or a word at their edges,
//! are bound as one, since a shader may take it that bindings are apart; so are more of them where a device
//! allows too few. Objects have numbers, which stand in the upper bits of addresses.

use super::kernels::element::{Access, Slot, WIDEST};
use super::kernels::matrices::Units;
use super::kernels::{Body, Kernel};
use crate::places::Span;
use anyid_ir::TensorType;
use std::sync::Arc;

/// What a device allows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Bytes of a range that is bound.
    pub(super) range_bytes: u64,
    /// Bytes of an allocation, whose parts are bound.
    pub(super) memory_bytes: u64,
    /// Ranges begin at multiples of this.
    pub(super) alignment: u64,
    /// Ranges of a launch.
    pub(super) bindings: usize,
    /// Threads of a cube.
    pub(super) threads: u32,
    /// Bytes of shared memory of a cube.
    pub(super) shared_bytes: usize,
    /// Cubes along an axis.
    pub(super) cubes: u32,
    /// What units for matrices multiply.
    pub(super) units: Units,
}

impl Limits {
    /// Bytes that are copied at once, whole words and elements; a range that begins in front of them is
    /// bound as well.
    pub(super) fn piece(&self) -> u64 {
        (32 << 20).min(self.range_bytes / 2) / 256 * 256
    }
}

/// Memory that is allocated at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Object(pub(super) u32);

/// Bits of a place inside of an object.
const INSIDE: u32 = 40;

impl Object {
    pub(super) const WORKSPACE: Self = Self(1);
    pub(super) const KEPT: Self = Self(2);
    pub(super) const STATES: Self = Self(3);
    /// Inputs and outputs.
    pub(super) const EDGE: Self = Self(4);
    /// What kernels read beside their operands.
    pub(super) const CONSTANTS: Self = Self(5);
    /// What kernels report.
    pub(super) const FAULTS: Self = Self(6);
    /// Memory that is copied from.
    pub(super) const STAGING: Self = Self(7);
    const WEIGHTS: u32 = 16;

    /// The memory of weight number `at`.
    pub(super) fn weight(at: usize) -> Self {
        Self(Self::WEIGHTS + u32::try_from(at).expect("weights are counted in a plan"))
    }

    /// The number of the weight that this is.
    pub(super) fn as_weight(self) -> Option<usize> {
        self.0.checked_sub(Self::WEIGHTS).map(|at| at as usize)
    }

    /// `bytes` bytes from its first on, as an address.
    pub(super) fn span(self, bytes: u64) -> Span {
        Span::dense(u64::from(self.0) << INSIDE, bytes)
    }

    /// The object that an address is of, and the place inside.
    pub(super) fn of(address: u64) -> (Self, u64) {
        (Self((address >> INSIDE) as u32), address & ((1 << INSIDE) - 1))
    }
}

/// Bytes of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) object: Object,
    pub(super) from: u64,
    pub(super) to: u64,
}

/// A launch.
#[derive(Clone, Debug)]
pub(super) struct Launch {
    pub(super) kernel: Arc<Kernel>,
    pub(super) ranges: Vec<Range>,
    pub(super) sizes: Vec<u32>,
    pub(super) cubes: u64,
}

impl Launch {
    /// Bytes of its widest range.
    pub(super) fn widest(&self) -> u64 {
        self.ranges.iter().map(|range| range.to - range.from).max().unwrap_or(0)
    }
}

/// An operand or a result, and where it lies.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) ty: TensorType,
    pub(super) span: Span,
}

impl Place {
    /// Bytes of memory as words.
    pub(super) fn words(span: Span) -> Self {
        let count = span.bytes.div_ceil(4) as usize;
        Self { ty: TensorType::new(anyid_ir::DType::I32, [count]), span }
    }

    fn size(&self) -> u64 {
        self.ty.dtype.bytes() as u64
    }

    /// Elements from one row of `width` to the next.
    pub(super) fn stride(&self, width: usize) -> usize {
        if self.span.stride == 0 { width } else { (self.span.stride / self.size()) as usize }
    }

    /// Elements of a row and from one row to the next, if it is columns of a wider value.
    pub(super) fn columns(&self) -> Option<(usize, usize)> {
        let Span { width, stride, .. } = self.span;
        (stride > 0).then(|| ((width / self.size()) as usize, (stride / self.size()) as usize))
    }

    /// Whether pieces of `count` elements, of which rows are made that are `stride` elements apart, are vectors, if
    /// the first begins `offset` elements behind the first of all.
    pub(super) fn is_wide(&self, count: usize, stride: usize, offset: usize) -> bool {
        let whole = |elements: usize| (elements * self.size() as usize).is_multiple_of(WIDEST);
        let begins = self.span.address.is_multiple_of(WIDEST as u64);
        whole(count) && whole(stride) && whole(offset) && begins
    }

    /// Whether words hold whole pieces of `count` elements, if rows of `width` are made of such.
    pub(super) fn is_even(&self, width: usize, count: usize) -> bool {
        let pack = 4 / self.size() as usize;
        let whole = |elements: usize| elements.is_multiple_of(pack);
        whole(count) && whole(self.stride(width)) && self.span.address.is_multiple_of(4)
    }
}

/// What a launch does with an operand or a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// Its elements are read, some of them in vectors if it is `wide`.
    Read { wide: bool },
    /// It is written, in whole words if it is `aligned`, in whole vectors if it is `wide`; else in elements,
    /// of which those that are narrower than a word are parts that several threads write.
    Write { aligned: bool, wide: bool },
}

impl Use {
    pub(super) const READ: Self = Self::Read { wide: false };
    /// Every thread writes whole words.
    pub(super) const WRITE: Self = Self::write(true);

    pub(super) const fn write(aligned: bool) -> Self {
        Self::Write { aligned, wide: false }
    }
}

/// A range, and all that is done with it.
#[derive(Clone, Debug)]
struct Group {
    range: Range,
    /// Parts of words are written.
    parts: bool,
    /// Vectors are read or written, if nothing that is less is written.
    wide: bool,
    narrow: bool,
}

impl Group {
    fn new(place: &Place, used: Use, limits: &Limits) -> Self {
        let (object, from) = Object::of(place.span.address);
        let to = (from + place.span.bytes).next_multiple_of(4);
        let range = Range { object, from: from / limits.alignment * limits.alignment, to };
        let (parts, wide, narrow) = match used {
            Use::Read { wide } => (false, wide, false),
            Use::Write { aligned, wide } => (!aligned && place.size() < 4, wide, !wide),
        };
        Self { range, parts, wide, narrow }
    }

    /// Takes up another, with what lies between.
    fn with(mut self, other: &Self) -> Self {
        self.range.from = self.range.from.min(other.range.from);
        self.range.to = self.range.to.max(other.range.to);
        self.parts |= other.parts;
        self.wide |= other.wide;
        self.narrow |= other.narrow;
        self
    }

    fn access(&self) -> Access {
        match (self.parts, self.wide && !self.narrow) {
            (true, _) => Access::Parts,
            (false, true) => Access::Quads,
            (false, false) => Access::Words,
        }
    }

    /// What is bound: whole vectors of them, as allocations hold such.
    fn bound(&self) -> Range {
        let whole = if self.access() == Access::Quads { WIDEST as u64 } else { 4 };
        Range { to: self.range.to.next_multiple_of(whole), ..self.range }
    }
}

/// The memory of a launch as it is being put together.
pub(super) struct Bound {
    /// Of the places, in their order.
    pub(super) slots: Vec<Slot>,
    ranges: Vec<Range>,
    accesses: Vec<Access>,
    sizes: Vec<u32>,
}

impl Bound {
    /// The memory of a launch on `places`, and what is done with each.
    pub(super) fn new(places: &[(&Place, Use)], limits: &Limits) -> Self {
        let mut groups: Vec<Group> = Vec::new();
        for (place, used) in places {
            join(&mut groups, Group::new(place, *used, limits));
        }
        while groups.len() > limits.bindings && join_two(&mut groups) {}
        let at_of = |place: &Place| {
            let (object, from) = Object::of(place.span.address);
            let inside = |Group { range, .. }: &Group| {
                range.object == object && range.from <= from && from < range.to
            };
            (groups.iter().position(inside).expect("every place was joined"), from)
        };
        let accesses: Vec<Access> = groups.iter().map(Group::access).collect();
        let mut sizes = vec![f32::INFINITY.to_bits()];
        let mut slots = Vec::with_capacity(places.len());
        for (place, used) in places {
            let (at, from) = at_of(place);
            let access = accesses[at];
            let binding = accesses[..at].iter().filter(|other| **other == access).count();
            let (dtype, base) = (place.ty.dtype, sizes.len());
            let aligned = !matches!(used, Use::Write { aligned: false, .. });
            let vectors = matches!(used, Use::Read { wide: true } | Use::Write { wide: true, .. });
            let wide = vectors && access == Access::Quads;
            slots.push(Slot { dtype, access, binding, base, aligned, wide });
            sizes.push(((from - groups[at].range.from) / place.size()) as u32);
        }
        let ranges = groups.iter().map(Group::bound).collect();
        Self { slots, ranges, accesses, sizes }
    }

    /// Where the next number of the launch will stand.
    pub(super) fn next(&self) -> usize {
        self.sizes.len()
    }

    /// A further number of the launch; where it stands.
    pub(super) fn size(&mut self, value: usize) -> usize {
        self.sizes.push(u32::try_from(value).unwrap_or(u32::MAX));
        self.sizes.len() - 1
    }

    /// The launch.
    pub(super) fn launch(self, name: &str, body: Body, threads: u32, cubes: usize) -> Launch {
        let Self { ranges, accesses, sizes, .. } = self;
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        let name: String = "k_".chars().chain(name.chars().take(32).map(plain)).collect();
        let kernel = Kernel::new(name, body, accesses, sizes.len(), threads);
        Launch { kernel: Arc::new(kernel), ranges, sizes, cubes: cubes as u64 }
    }
}

/// Adds a range, as one with those that it meets.
fn join(groups: &mut Vec<Group>, mut group: Group) {
    while let Some(at) = groups.iter().position(|Group { range, .. }| {
        let own = group.range;
        range.object == own.object && range.from < own.to && own.from < range.to
    }) {
        group = group.with(&groups.remove(at));
    }
    groups.push(group);
}

/// Binds two ranges of an object with all between them as one; whether there are two.
fn join_two(groups: &mut Vec<Group>) -> bool {
    for second in (1..groups.len()).rev() {
        let object = groups[second].range.object;
        if let Some(first) = groups[..second].iter().position(|own| own.range.object == object) {
            let other = groups.remove(second);
            let group = groups[first].clone().with(&other);
            join(groups, group);
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyid_ir::DType;

    const LIMITS: Limits = Limits {
        range_bytes: 1 << 27,
        memory_bytes: 1 << 30,
        alignment: 256,
        bindings: 3,
        threads: 256,
        shared_bytes: 1 << 14,
        cubes: 65535,
        units: Units { f16: false, bf16: false },
    };

    fn place(object: Object, from: u64, dtype: DType, count: usize) -> Place {
        let ty = TensorType::new(dtype, [count]);
        let bytes = ty.bytes();
        Place { ty, span: Span { address: object.span(0).address + from, ..Span::dense(0, bytes) } }
    }

    #[test]
    fn ranges_that_meet_are_bound_as_one() {
        let a = place(Object::WORKSPACE, 512, DType::F32, 64);
        let same = place(Object::WORKSPACE, 512, DType::F32, 64);
        let behind = place(Object::WORKSPACE, 512 + 256 + 6, DType::Bf16, 3);
        let other = place(Object::EDGE, 512, DType::F32, 64);
        let all = [
            (&a, Use::READ),
            (&behind, Use::write(false)),
            (&other, Use::READ),
            (&same, Use::READ),
        ];
        let bound = Bound::new(&all, &LIMITS);
        let binding = |at: usize| (bound.slots[at].binding, bound.slots[at].access);
        assert_eq!(
            [binding(0), binding(1), binding(2), binding(3)],
            [(1, Access::Words), (0, Access::Parts), (0, Access::Words), (1, Access::Words)]
        );
        // Elements in front, behind +∞.
        assert_eq!(bound.sizes[1..], [0, 3, 0, 0]);
        assert!(bound.ranges.iter().all(|range| range.from.is_multiple_of(256)));
    }

    #[test]
    fn vectors_are_bound_where_nothing_less_is_written() {
        let a = place(Object::WORKSPACE, 0, DType::Bf16, 20);
        let b = place(Object::EDGE, 0, DType::F32, 64);
        let wide = Use::Read { wide: true };
        let of = |second: (&Place, Use)| {
            let bound = Bound::new(&[(&a, wide), second], &LIMITS);
            (bound.accesses.clone(), bound.ranges[0].to)
        };
        assert_eq!(of((&b, Use::WRITE)), (vec![Access::Quads, Access::Words], 48));
        let whole = Use::Write { aligned: true, wide: true };
        assert_eq!(of((&b, whole)), (vec![Access::Quads, Access::Quads], 48));
        assert_eq!(of((&a, whole)), (vec![Access::Quads], 48));
        assert_eq!(of((&a, Use::WRITE)), (vec![Access::Words], 40));
        assert_eq!(of((&a, Use::write(false))), (vec![Access::Parts], 40));
        assert!(a.is_wide(8, 24, 16) && !a.is_wide(4, 24, 16) && !a.is_wide(8, 20, 16));
    }

    #[test]
    fn too_many_ranges_of_an_object_are_bound_with_what_lies_between() {
        let all: Vec<Place> =
            (0..5).map(|at| place(Object::WORKSPACE, at * 4096, DType::F32, 8)).collect();
        let given: Vec<_> = all.iter().map(|place| (place, Use::READ)).collect();
        let bound = Bound::new(&given, &LIMITS);
        assert!(bound.ranges.len() <= 3, "{:?}", bound.ranges);
        for (slot, base) in bound.slots.iter().zip(&bound.sizes[1..]) {
            let range = bound.ranges[slot.binding];
            assert!(range.from + u64::from(*base) * 4 + 32 <= range.to);
        }
    }
}
