//! Launches from the steps of a plan: which kernel, how its work is shared out, and which indices have to
//! be looked at before.

use super::kernels::attention::{Lines, PARTS, Scores, UNITS_TILE};
use super::kernels::element::{Slot, WIDEST};
use super::kernels::matrices::SQUARE;
use super::kernels::moves::{CopyPart, Filled, Flat};
use super::kernels::number::is_whole;
use super::kernels::product::{Clip, End, FEW, Gate, LANES, OWN};
use super::kernels::rows::{Pass, Start};
use super::kernels::{
    Attention, Back, BackBias, Body, Check, Copy, Exact, Fill, Gather, Product, Rows, Segments,
    Share, Sides,
};
use super::launch::{Bound, Launch, Limits, Object, Place, Use};
use super::tune::Tile;
use crate::element;
use crate::places::{Roots, Span};
use crate::row_passes::{RowPasses, gate_rows, laid_apart, table_rows};
use anyid_ir::decompose::{bucket_thresholds, timestep_frequency};
use anyid_ir::infer::sides;
use anyid_ir::kernel::{
    Anchor, AnchorKernel, Columns, Combine, CopyKernel, Fill as FillKernel, Instruction, Kernel,
    Load, Part, RowKernel, RowMap,
};
use anyid_ir::plan::{BufferId, Step};
use anyid_ir::{DType, TensorType};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Threads of a cube where they work apart.
const THREADS: u32 = 128;
/// Pieces of a thread that are held in registers, in elements.
const HELD: usize = 16;
/// Elements of a row whose pieces are eight numbers of a half type.
const LONG: usize = 1024;
/// Instructions of an unrolled row kernel.
const LONGEST: usize = 600;

/// Indices that name rows of a table, and where the look at them reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Checked {
    pub(super) step: usize,
    pub(super) rows: usize,
}

/// Launches of a plan as they are put together.
pub(super) struct Emitter<'e> {
    pub(super) roots: &'e Roots<'e>,
    pub(super) limits: &'e Limits,
    /// Bytes that kernels read beside operands: of all plans.
    pub(super) constants: &'e mut Vec<u8>,
    /// What is looked at, in order.
    pub(super) checks: Vec<Checked>,
    looked: BTreeMap<(BufferId, usize), ()>,
    own: Vec<Launch>,
    step: usize,
}

impl<'e> Emitter<'e> {
    /// For a plan whose roots lie so.
    pub(super) fn new(
        roots: &'e Roots<'e>,
        limits: &'e Limits,
        constants: &'e mut Vec<u8>,
    ) -> Self {
        let (checks, looked, own) = (Vec::new(), BTreeMap::new(), Vec::new());
        Self { roots, limits, constants, checks, looked, own, step: 0 }
    }

    /// The launches of a step.
    pub(super) fn step(&mut self, at: usize, step: &Step) -> Vec<Launch> {
        self.step = at;
        let place = |id: &BufferId| Place {
            ty: self.roots.plan.buffer(*id).ty.clone(),
            span: self.roots.span(*id),
        };
        let operands: Vec<Place> = step.operands.iter().map(place).collect();
        let results: Vec<Place> = step.results.iter().map(place).collect();
        match &step.kernel {
            Kernel::Row(row) => self.rows(row, step, &operands, &results),
            Kernel::Copy(copy) => self.copy(copy, &operands, &results[0]),
            Kernel::Gather => self.gather(step, &operands, &results[0]),
            Kernel::Fill(fill) => self.fill(fill, &operands, &results[0]),
            Kernel::Anchor(anchor) => self.anchor(anchor, step, &operands, &results),
        }
        std::mem::take(&mut self.own)
    }

    /// Rows of a cube of an attention or its derivative, by the floats of shared memory that it has for so many.
    fn tile(&self, floats: impl Fn(usize) -> usize) -> usize {
        let fits = |tile: &usize| {
            4 * floats(*tile) <= self.limits.shared_bytes
                && tile * PARTS <= self.limits.threads as usize
        };
        [16, 8, 4].into_iter().find(fits).unwrap_or(4)
    }

    fn threads(&self) -> u32 {
        THREADS.min(self.limits.threads)
    }

    /// Has indices looked at before they are used, once for as many rows.
    fn look(&mut self, id: BufferId, place: &Place, rows: usize) {
        if self.looked.insert((id, rows), ()).is_some() {
            return;
        }
        let all = Object::FAULTS.span(8 * (self.checks.len() as u64 + 1));
        let found = Place::words(all.part(8 * self.checks.len() as u64, 8));
        self.checks.push(Checked { step: self.step, rows });
        let mut bound = Bound::new(&[(place, Use::READ), (&found, Use::WRITE)], self.limits);
        let (count, rows) = (bound.size(place.ty.elements()), bound.size(rows));
        let check = Check { indices: bound.slots[0], count, rows, found: bound.slots[1] };
        let threads = 256.min(self.limits.threads);
        self.own.push(bound.launch("check", Body::Check(check), threads, 1));
    }

    /// Bytes that a kernel reads beside its operands, as elements of a type.
    fn constant(&mut self, dtype: DType, values: impl Iterator<Item = f64>) -> Place {
        let values: Vec<f64> = values.collect();
        let mut bytes = vec![0; values.len() * dtype.bytes()];
        for (at, value) in values.iter().enumerate() {
            element::write(dtype, &mut bytes, at, *value);
        }
        self.constant_bytes(TensorType::new(dtype, [values.len()]), &bytes)
    }

    fn constant_bytes(&mut self, ty: TensorType, bytes: &[u8]) -> Place {
        self.constants.resize(self.constants.len().next_multiple_of(256), 0);
        let from = self.constants.len() as u64;
        self.constants.extend_from_slice(bytes);
        let all = Object::CONSTANTS.span(self.constants.len() as u64);
        Place { ty, span: all.part(from, bytes.len() as u64) }
    }

    fn rows(&mut self, kernel: &RowKernel, step: &Step, operands: &[Place], results: &[Place]) {
        let passes = RowPasses::new(kernel);
        for instruction in &kernel.code {
            if let Instruction::Load(access) = instruction
                && let RowMap::Segment(segments) = access.rows
            {
                let rows = table_rows(access, kernel.width, operands[access.operand].ty.elements());
                self.look(step.operands[segments], &operands[segments], rows);
            }
        }
        let turns = kernel.code.iter().any(|i| matches!(i, Instruction::Rotate(..)));
        let fits = |piece: &usize| {
            let short = *piece == 1 || kernel.code.len() * piece <= LONGEST;
            kernel.width.is_multiple_of(*piece) && (short || (turns && *piece == 2))
        };
        // A vector has eight numbers of a half type; short rows would leave threads without work.
        let half = |ty: &TensorType| ty.dtype.bytes() == 2;
        let halves = kernel.operands.iter().chain(&kernel.results).any(half);
        let most = if halves && kernel.width >= LONG { 8 } else { 4 };
        let piece = [8, 4, 2, 1].into_iter().filter(|piece| *piece <= most).find(fits).unwrap_or(1);
        let reduces = passes.count() > 1;
        let (width, most) = (kernel.width, self.limits.threads.min(256) as usize);
        let lanes = (width / piece).div_ceil(4).next_power_of_two().min(most);
        let (share, threads) = match reduces {
            true => (Share::Lanes(lanes), (lanes as u32).max(64).min(self.limits.threads)),
            false => (Share::Each, self.threads()),
        };
        let own = width.div_ceil(lanes * piece) * piece;
        let held = own <= HELD && kernel.code.len() * own <= LONGEST;
        let start = |instruction: &Instruction| match instruction {
            Instruction::Load(access) => {
                let place = &operands[access.operand];
                let (offset, stride) = laid_apart(access, place.columns());
                let rows = table_rows(access, width, place.ty.elements());
                let all = access.columns == Columns::All;
                let wide = all && place.is_wide(piece, stride, offset);
                Some(Start { offset, stride, rows, wide })
            }
            _ => None,
        };
        let starts: Vec<Option<Start>> = kernel.code.iter().map(start).collect();
        let wide = |operand: usize| {
            let of = |instruction: &Instruction| matches!(instruction, Instruction::Load(access) if access.operand == operand);
            let mut own = kernel.code.iter().zip(&starts).filter(|(code, _)| of(code));
            own.any(|(_, start)| start.is_some_and(|start| start.wide))
        };
        let mut places: Vec<(&Place, Use)> = operands
            .iter()
            .enumerate()
            .map(|(at, place)| (place, Use::Read { wide: wide(at) }))
            .collect();
        for (at, result) in results.iter().enumerate() {
            let aligned = !passes.is_narrow(at) && result.is_even(width, piece);
            let wide = aligned && result.is_wide(piece, result.stride(width), 0);
            places.push((result, Use::Write { aligned, wide }));
        }
        let mut bound = Bound::new(&places, self.limits);
        let count = bound.size(kernel.rows);
        let (operand_slots, result_slots) = bound.slots.split_at(operands.len());
        let whole = kernel.arithmetic != DType::F32
            && kernel.operands.iter().chain(&kernel.results).all(|ty| !ty.dtype.is_float())
            && kernel.code.iter().all(is_whole);
        let rows = Rows {
            // The same program serves every number of rows.
            kernel: RowKernel {
                name: String::new(),
                rows: 0,
                operands: Vec::new(),
                results: Vec::new(),
                ..kernel.clone()
            },
            passes: split(kernel, &passes, held && reduces),
            scalars: passes.scalars.clone(),
            starts,
            stores: passes
                .stores()
                .into_iter()
                .map(|(result, value)| (result, value, passes.is_narrow(result)))
                .collect(),
            operands: operand_slots.to_vec(),
            results: result_slots.to_vec(),
            strides: results.iter().map(|place| place.stride(width)).collect(),
            share,
            piece,
            held,
            count,
            whole,
        };
        let cubes = match share {
            Share::Each => (kernel.rows * (width / piece)).div_ceil(threads as usize),
            Share::Lanes(lanes) => kernel.rows.div_ceil(threads as usize / lanes),
        };
        self.own.push(bound.launch(&kernel.name, Body::Rows(Arc::new(rows)), threads, cubes));
    }

    /// Puts together the launch of a kernel that makes a dense result in order of its elements, in vectors if
    /// `wide` says so for as many and they lie evenly.
    fn flat(
        &mut self,
        name: &str,
        operands: &[(&Place, Use)],
        (result, wide): (&Place, bool),
        body: impl FnOnce(Flat, &[Slot]) -> Body,
    ) {
        let elements = result.ty.elements();
        let (pack, each) = (4 / result.ty.dtype.bytes(), vector(result));
        let aligned = result.is_even(elements, pack);
        let wide = wide && aligned && result.is_wide(each, result.stride(elements), 0);
        let mut places = operands.to_vec();
        places.push((result, Use::Write { aligned, wide }));
        let mut bound = Bound::new(&places, self.limits);
        let (result, operands) = bound.slots.split_last().expect("the result is the last");
        // How many threads have work is the next number.
        let flat = Flat { result: *result, count: bound.next() };
        let work = elements / flat.piece();
        let body = body(flat, operands);
        bound.size(work);
        let threads = self.threads();
        self.own.push(bound.launch(name, body, threads, work.div_ceil(threads as usize)));
    }

    fn copy(&mut self, kernel: &CopyKernel, operands: &[Place], result: &Place) {
        let mut first = 0;
        let parts: Vec<(Option<usize>, CopyPart)> = kernel
            .parts
            .iter()
            .map(|part| {
                let length = kernel.length(part).expect("verified");
                let (from, offset, axes) = match part {
                    Part::Zeros(_) => (None, 0, Vec::new()),
                    Part::Strided { operand, offset, axes } => {
                        (Some(*operand), *offset, axes.to_vec())
                    }
                };
                first += length;
                (from, CopyPart { from: None, offset, axes, first: first - length, length })
            })
            .collect();
        let line = first;
        let each = vector(result);
        // Parts whose elements are no neighbours are put together from single ones.
        let whole = |(_, part): &(Option<usize>, CopyPart)| {
            part.first.is_multiple_of(each) && part.length.is_multiple_of(each)
        };
        let runs = |at: usize| {
            let own =
                |(from, part): &(Option<usize>, CopyPart)| *from == Some(at) && part.is_wide(each);
            parts.iter().any(own) && operands[at].is_wide(each, each, 0)
        };
        let given: Vec<(&Place, Use)> = operands
            .iter()
            .enumerate()
            .map(|(at, place)| (place, Use::Read { wide: runs(at) }))
            .collect();
        let wide = parts.iter().all(whole) && (0..operands.len()).any(runs);
        self.flat(&kernel.name, &given, (result, wide), |flat, slots| {
            let parts = parts.into_iter();
            let parts =
                parts.map(|(from, part)| CopyPart { from: from.map(|at| slots[at]), ..part });
            Body::Copy(Arc::new(Copy { flat, parts: parts.collect(), line }))
        });
    }

    fn gather(&mut self, step: &Step, operands: &[Place], result: &Place) {
        let rows = operands[0].ty.shape[0];
        let width = operands[0].ty.elements() / rows.max(1);
        self.look(step.operands[1], &operands[1], rows);
        let table = &operands[0];
        let wide = table.is_wide(vector(table), width, 0);
        let given = [(table, Use::Read { wide }), (&operands[1], Use::READ)];
        self.flat("gather", &given, (result, wide), |flat, slots| {
            let (table, indices) = (slots[0], slots[1]);
            Body::Gather(Gather { flat, table, indices, rows, width })
        });
    }

    fn fill(&mut self, fill: &FillKernel, operands: &[Place], result: &Place) {
        let name = fill.name();
        let made = |filled| move |flat, _: &[Slot]| Body::Fill(Fill { flat, filled });
        match fill {
            FillKernel::Const(values) => {
                // One number too lies in memory, so that it is no part of the kernel.
                let list = self.constant(result.ty.dtype, values.iter().copied());
                let one = values.len() == 1;
                self.flat(name, &[(&list, Use::READ)], (result, false), |flat, slots| {
                    let list = slots[0];
                    let filled = if one { Filled::One(list) } else { Filled::List(list) };
                    Body::Fill(Fill { flat, filled })
                });
            }
            FillKernel::Iota(axis) => {
                let (stride, size) = (result.ty.strides()[*axis], result.ty.shape[*axis]);
                self.flat(name, &[], (result, false), made(Filled::Iota { stride, size }));
            }
            FillKernel::RopeTable { rows, cols, head_dim, theta } => {
                let (rows, columns, head) = (*rows, *cols, *head_dim);
                let bytes = turns(head, *theta);
                let ty = TensorType::new(DType::I32, [bytes.len() / 4]);
                let table = self.constant_bytes(ty, &bytes);
                let given = [(&operands[0], Use::READ), (&table, Use::READ)];
                self.flat(name, &given, (result, false), |flat, slots| {
                    let (positions, frequencies) = (slots[0], slots[1]);
                    let filled = Filled::Rope { positions, frequencies, rows, columns, head };
                    Body::Fill(Fill { flat, filled })
                });
            }
            FillKernel::TimestepEmbedding(dim) => {
                let (dim, half) = (*dim, dim / 2);
                let table = (0..half).map(|i| f64::from(timestep_frequency(i, half)));
                let table = self.constant(DType::F32, table);
                let given = [(&operands[0], Use::READ), (&table, Use::READ)];
                self.flat(name, &given, (result, false), |flat, slots| {
                    let (steps, frequencies) = (slots[0], slots[1]);
                    Body::Fill(Fill { flat, filled: Filled::Timesteps { steps, frequencies, dim } })
                });
            }
            FillKernel::RelativeBucket { buckets, max_distance } => {
                let mut list = bucket_thresholds(*buckets, *max_distance);
                let count = list.len();
                // An empty list has no memory.
                list.push(i32::MAX);
                let table = self.constant(DType::I32, list.into_iter().map(f64::from));
                let (half, near) = (buckets / 2, buckets / 4);
                let given = [(&operands[0], Use::READ), (&table, Use::READ)];
                self.flat(name, &given, (result, false), |flat, slots| {
                    let (deltas, thresholds) = (slots[0], slots[1]);
                    let filled = Filled::Buckets { deltas, thresholds, count, half, near };
                    Body::Fill(Fill { flat, filled })
                });
            }
        }
    }

    fn anchor(
        &mut self,
        kernel: &AnchorKernel,
        step: &Step,
        operands: &[Place],
        results: &[Place],
    ) {
        match kernel.anchor {
            Anchor::Linear => {
                let x = &operands[0];
                let k = x.ty.last();
                let m = x.ty.elements() / k.max(1);
                for part in 0..kernel.parts {
                    let n = operands[kernel.part_operand(part, 1)].ty.shape[0];
                    let sides = Sides::Linear { stride: x.stride(k) };
                    self.product(kernel, part, sides, [1, m, n, k], step, operands, results);
                }
            }
            Anchor::Dot { transposed } => {
                let [a, b] = [&operands[0].ty, &operands[1].ty];
                let [(m, k), (n, _)] = [sides(a, transposed[0]), sides(b, transposed[1])];
                let pages = a.shape[..a.rank() - 2].iter().product();
                let float = |place: &Place| place.ty.dtype.is_float();
                if operands[..2].iter().chain(results).all(float) {
                    let sides = Sides::Dot { transposed, rows: m };
                    self.product(kernel, 0, sides, [pages, m, n, k], step, operands, results);
                } else {
                    self.exact(transposed, [pages, m, n, k], operands, &results[0]);
                }
            }
            Anchor::Conv { stride, pad } => {
                let (x, w, y) = (&operands[0].ty, &operands[1].ty, &results[0].ty);
                let taps = match w.shape[2..] {
                    [t, h, w] => [t, h, w],
                    [h, w] => [1, h, w],
                    _ => unreachable!("verified: a kernel has four or five axes"),
                };
                let factors = match kernel.load {
                    Load::Own => [1; 3],
                    Load::Nearest(factors) => factors,
                };
                let (n, channels) = (w.shape[0], w.shape[1]);
                let k = channels * taps.iter().product::<usize>();
                let m = y.elements() / n.max(1);
                let clip = Clip {
                    from: [x.shape[0], x.shape[1], x.shape[2]],
                    channels,
                    taps,
                    stride,
                    front: pad.map(|[front, _]| front),
                    factors,
                    to: [y.shape[1], y.shape[2]],
                };
                self.product(kernel, 0, Sides::Conv(clip), [1, m, n, k], step, operands, results);
            }
            Anchor::Attention { heads, scale, lse, last } => {
                self.attention(&kernel.name, (heads, scale, lse, last), operands, results);
            }
            Anchor::AttentionVjp { heads, scale, bias, last } => {
                self.back(&kernel.name, (heads, scale, bias, last), operands, results);
            }
            Anchor::SegmentSum { segments } => self.segments(segments, operands, results),
        }
    }

    fn product(
        &mut self,
        kernel: &AnchorKernel,
        part: usize,
        sides: Sides,
        [pages, m, n, k]: [usize; 4],
        step: &Step,
        operands: &[Place],
        results: &[Place],
    ) {
        let result = &results[part];
        let width = result.ty.last();
        let bias = (kernel.arity > 2).then(|| kernel.part_operand(part, 2));
        let residual = kernel.residual_operand();
        let gate = match kernel.combine {
            Combine::GateAdd { offset, stride } => {
                let first = kernel.own_operands();
                let elements = operands[first + 1].ty.elements();
                let rows = gate_rows((offset, stride), width, elements);
                self.look(step.operands[first + 2], &operands[first + 2], rows);
                Some((first + 1, first + 2, offset, stride, rows))
            }
            _ => None,
        };
        let few = matches!(sides, Sides::Linear { .. }) && m <= FEW;
        let aligned = !few && n.is_multiple_of(OWN) && result.is_even(width, OWN);
        // Neighbouring summands are neighbours in memory on these sides.
        let rows_of = match &sides {
            Sides::Linear { stride } => [Some(*stride), Some(k)],
            Sides::Dot { transposed, .. } => transposed.map(|other| (!other).then_some(k)),
            Sides::Conv(_) => [None, Some(k)],
        };
        let second = kernel.part_operand(part, 1);
        let wide = |at: usize| {
            let stride = match at {
                0 => rows_of[0],
                _ if at == second => rows_of[1],
                _ => None,
            };
            let place = &operands[at];
            let each = vector(place);
            !few && k.is_multiple_of(each) && stride.is_some_and(|s| place.is_wide(each, s, 0))
        };
        let mut used: Vec<usize> = vec![0, second];
        used.extend(bias.into_iter().chain(residual));
        used.extend(gate.iter().flat_map(|(table, segments, ..)| [*table, *segments]));
        let mut places: Vec<(&Place, Use)> =
            used.iter().map(|at| (&operands[*at], Use::Read { wide: wide(*at) })).collect();
        let whole = aligned && result.is_wide(OWN, result.stride(width), 0);
        places.push((result, Use::Write { aligned, wide: whole }));
        let mut bound = Bound::new(&places, self.limits);
        let (rows, at_pages) = (bound.size(m), bound.size(pages));
        let slot = |operand: usize| {
            bound.slots[used.iter().position(|own| *own == operand).expect("it is listed")]
        };
        let end = End {
            bias: bias.map(slot),
            sums: kernel.sums,
            activation: kernel.activation,
            activated: kernel.activated,
            gate: gate.map(|(table, segments, offset, stride, rows)| Gate {
                table: slot(table),
                segments: slot(segments),
                offset,
                stride,
                rows,
            }),
            residual: residual.map(|at| (slot(at), operands[at].stride(width))),
            result: *bound.slots.last().expect("the result is the last"),
            stride: result.stride(width),
        };
        let (left, right) = (slot(0), slot(second));
        let by_units = !few && left.dtype == right.dtype && self.limits.units.has(left.dtype);
        let by_units = if by_units { Tile::of_units(m, n, self.limits) } else { None };
        let (tile, units) = match by_units {
            Some(tile) => (tile, true),
            None => (Tile::usual(m, n, self.limits), false),
        };
        let product = Product { sides, left, right, n, k, rows, pages: at_pages, tile, units, end };
        let (body, threads, cubes) = if few {
            let threads = self.threads();
            (Body::Few(Arc::new(product)), threads, n.div_ceil(threads as usize / LANES))
        } else {
            let (threads, cubes) = (product.threads(), product.cubes(m, pages));
            (Body::Product(Arc::new(product)), threads, cubes)
        };
        self.own.push(bound.launch(&kernel.name, body, threads, cubes));
    }

    fn attention(
        &mut self,
        name: &str,
        (heads, scale, lse, last): (usize, f64, bool, usize),
        operands: &[Place],
        results: &[Place],
    ) {
        let Heads { all, width, queries, keys, pages } = Heads::new(heads, operands, &results[0]);
        let own = operands[0].ty.dtype;
        let units = self.limits.units.has(own)
            && operands[..3].iter().all(|place| place.ty.dtype == own)
            && width.is_multiple_of(SQUARE)
            && Attention::bytes_of_units(width) <= self.limits.shared_bytes
            && UNITS_TILE * PARTS <= self.limits.threads as usize;
        let tile =
            if units { UNITS_TILE } else { self.tile(|tile| Attention::floats(tile, width)) };
        let aligned = width.is_multiple_of(2 * PARTS) && results[0].is_even(all, 2);
        let mut places: Vec<(&Place, Use)> = operands
            .iter()
            .enumerate()
            .map(|(at, place)| {
                (place, if at < 3 { of_heads(place, all, width) } else { Use::READ })
            })
            .collect();
        places.push((&results[0], Use::write(aligned)));
        places.extend(results[1..].iter().map(|place| (place, Use::WRITE)));
        let mut bound = Bound::new(&places, self.limits);
        let [queries_at, keys_at, pages_at] = [queries, keys, pages].map(|n| bound.size(n));
        let first = operands.len();
        let lines = |at: usize| (bound.slots[at], operands[at].stride(all));
        let attention = Attention {
            query: lines(0),
            key: lines(1),
            value: lines(2),
            result: (bound.slots[first], results[0].stride(all)),
            scores: scores(scale, last, (first > 3).then(|| bound.slots[3])),
            sums: lse.then(|| bound.slots[first + 1]),
            heads,
            width,
            tile,
            units,
            queries: queries_at,
            keys: keys_at,
            pages: pages_at,
        };
        let cubes = queries.div_ceil(tile) * heads * pages;
        let body = Body::Attention(Arc::new(attention));
        self.own.push(bound.launch(name, body, (tile * PARTS) as u32, cubes));
    }

    /// The derivative of an attention: a launch for each side, and one for the table of a bias.
    fn back(
        &mut self,
        name: &str,
        (heads, scale, bias, last): (usize, f64, bool, usize),
        operands: &[Place],
        results: &[Place],
    ) {
        let Heads { all, width, queries, keys, pages } = Heads::new(heads, operands, &results[0]);
        let tile = self.tile(|tile| Back::floats(tile, width));
        let given = operands.len();
        let bound = |written: &[usize], emitter: &Self| {
            let mut places: Vec<(&Place, Use)> =
                operands.iter().map(|place| (place, Use::READ)).collect();
            for at in [0, 1, 2, 5] {
                places[at].1 = of_heads(&operands[at], all, width);
            }
            for at in written {
                let result = &results[*at];
                let aligned = *at < 3 && width.is_multiple_of(2 * PARTS) && result.is_even(all, 2);
                places.push((result, Use::write(aligned)));
            }
            Bound::new(&places, emitter.limits)
        };
        let made = |bound: &mut Bound, by_keys: bool, results: [Lines; 2]| {
            let [queries, keys, pages] = [queries, keys, pages].map(|n| bound.size(n));
            let lines = |at: usize| (bound.slots[at], operands[at].stride(all));
            Back {
                query: lines(0),
                key: lines(1),
                value: lines(2),
                given: lines(3),
                slope: lines(5),
                sums: bound.slots[4],
                scores: scores(scale, last, bias.then(|| bound.slots[6])),
                heads,
                width,
                tile,
                by_keys,
                results,
                queries,
                keys,
                pages,
            }
        };
        for (by_keys, written, rows) in [(false, &[0][..], queries), (true, &[1, 2], keys)] {
            let mut bound = bound(written, self);
            let lines = |n: usize| (bound.slots[given + n], results[written[n]].stride(all));
            let into = [lines(0), lines(written.len() - 1)];
            let body = Body::Back(Arc::new(made(&mut bound, by_keys, into)));
            let cubes = rows.div_ceil(tile) * heads * pages;
            self.own.push(bound.launch(name, body, (tile * PARTS) as u32, cubes));
        }
        if bias {
            let mut bound = bound(&[3], self);
            let result = bound.slots[given];
            let back = made(&mut bound, false, [(result, 0); 2]);
            let sums = heads * (queries + keys - 1);
            let count = bound.size(sums);
            let body = Body::BackBias(Arc::new(BackBias { back, result, count }));
            let threads = self.threads();
            self.own.push(bound.launch(name, body, threads, sums.div_ceil(threads as usize)));
        }
    }

    /// Rows of segments that are not there count nowhere.
    fn segments(&mut self, segments: usize, operands: &[Place], results: &[Place]) {
        let result = &results[0];
        let places =
            [(&operands[0], Use::READ), (&operands[1], Use::READ), (result, Use::write(false))];
        let mut bound = Bound::new(&places, self.limits);
        let width = operands[0].ty.last();
        let sums = segments * width;
        let (rows, count) = (bound.size(operands[0].ty.shape[0]), bound.size(sums));
        let [values, segments, result] = [0, 1, 2].map(|at| bound.slots[at]);
        let body = Body::Segments(Segments { values, segments, result, width, rows, count });
        let threads = self.threads();
        self.own.push(bound.launch("segment_sum", body, threads, sums.div_ceil(threads as usize)));
    }

    fn exact(
        &mut self,
        transposed: [bool; 2],
        [pages, m, n, k]: [usize; 4],
        operands: &[Place],
        result: &Place,
    ) {
        let places =
            [(&operands[0], Use::READ), (&operands[1], Use::READ), (result, Use::write(false))];
        let mut bound = Bound::new(&places, self.limits);
        let sums = pages * m * n;
        let count = bound.size(sums);
        let threads = self.threads();
        let [left, right, result] = [0, 1, 2].map(|at| bound.slots[at]);
        let exact = Exact { left, right, result, transposed, sizes: [m, n, k], count };
        let body = Body::Exact(Arc::new(exact));
        self.own.push(bound.launch("dot", body, threads, sums.div_ceil(threads as usize)));
    }
}

/// The sizes of an attention.
struct Heads {
    /// Channels of all heads, and of one.
    all: usize,
    width: usize,
    queries: usize,
    keys: usize,
    pages: usize,
}

impl Heads {
    fn new(heads: usize, operands: &[Place], result: &Place) -> Self {
        let batched = result.ty.rank() == 3;
        let rows = |place: &Place| place.ty.shape[usize::from(batched)];
        let (all, pages) = (result.ty.last(), if batched { result.ty.shape[0] } else { 1 });
        let (queries, keys) = (rows(&operands[0]), rows(&operands[1]));
        Self { all, width: all / heads, queries, keys, pages }
    }
}

/// How rows of heads of this width are read.
fn of_heads(place: &Place, all: usize, width: usize) -> Use {
    let each = vector(place);
    let wide = width.is_multiple_of(each) && place.is_wide(each, place.stride(all), 0);
    Use::Read { wide }
}

/// Elements of a vector of a place.
fn vector(place: &Place) -> usize {
    WIDEST / place.ty.dtype.bytes()
}

/// What makes scores; roundings are those of the definition, once each.
fn scores(scale: f64, last: usize, bias: Option<Slot>) -> Scores {
    Scores { scale: scale as f32, last: (last as f64).ln() as f32, bias }
}

/// The passes of a row kernel with what each computes; what is held is computed once.
fn split(kernel: &RowKernel, passes: &RowPasses<'_>, held: bool) -> Vec<Pass> {
    let mut made = vec![false; kernel.code.len()];
    (0..passes.count())
        .map(|at| {
            let slice = passes.slice(at, &mut |register| held && made[register]);
            let vectors: Vec<usize> = (0..slice.len()).filter(|own| slice[*own]).collect();
            vectors.iter().for_each(|own| made[*own] = true);
            let scalars = kernel.code.iter().enumerate().filter(|(own, instruction)| {
                let apart =
                    matches!(instruction, Instruction::Reduce(..) | Instruction::Store { .. });
                passes.scalars[*own] && passes.levels[*own] == at && !apart
            });
            let scalars = scalars.map(|(own, _)| own).collect();
            Pass { scalars, vectors, reductions: passes.reductions(at) }
        })
        .collect()
}

/// The frequencies of a rotary table as parts of a turn, in 64 bits each: its upper word, its lower.
fn turns(head: usize, theta: f64) -> Vec<u8> {
    let spatial = 2 * (head / 6);
    let temporal = head - 2 * spatial;
    let axes = [temporal, spatial, spatial];
    let each = axes.into_iter().flat_map(|channels| {
        (0..channels / 2).map(move |own| {
            let frequency = (-2.0 * own as f64 / channels as f64 * theta.ln()).exp();
            // 2^64 parts of a turn.
            (frequency / std::f64::consts::TAU * 18_446_744_073_709_551_616.0) as u64
        })
    });
    each.flat_map(|parts| {
        let words = [(parts >> 32) as u32, parts as u32];
        words.into_iter().flat_map(u32::to_le_bytes)
    })
    .collect()
}

/// Bytes that a word-wise launch covers.
pub(super) fn words(span: Span) -> usize {
    span.bytes.div_ceil(4) as usize
}
