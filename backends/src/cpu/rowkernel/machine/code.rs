//! Code in executable memory, and calling it for the rows of a task.
//!
//! Safety: see [`run`](crate::cpu::rowkernel::run). Code reads and writes what the interpreter would,
//! at addresses that are computed here as they are there; its scratch is that of its worker.

use super::super::run::Launch;
use super::super::strip::store_one;
use super::generate::{Arguments, COLUMNS, generate};
use super::program::{Pointer, Program, Single};
use anyid_ir::kernel::{Columns, RowMap};
use memmap2::{Mmap, MmapMut};
use std::ops::Range;

/// The function of a program.
#[derive(Debug)]
pub(in crate::cpu::rowkernel) struct Code {
    memory: Mmap,
    pool: Vec<u32>,
}

impl Code {
    /// `None` where there are not enough registers, or the system refuses.
    pub fn new(program: &Program) -> Option<Self> {
        let (bytes, pool) = generate(program).ok()?;
        Some(Self { memory: Self::mapped(&bytes).ok()?, pool })
    }

    /// Executable memory with these bytes.
    pub fn mapped(bytes: &[u8]) -> std::io::Result<Mmap> {
        let mut memory = MmapMut::map_anon(bytes.len())?;
        memory.copy_from_slice(bytes);
        memory.make_exec()
    }

    /// # Safety
    /// The machine has AVX-512, and the arguments are those of a block as `rows` makes them.
    unsafe fn call(&self, arguments: &Arguments) {
        // SAFETY: the memory begins with a whole function of this form, which keeps to the convention.
        unsafe {
            let function: unsafe extern "sysv64" fn(*const Arguments) =
                std::mem::transmute(self.memory.as_ptr());
            function(arguments);
        }
    }
}

/// Runs rows and columns of a launch: blocks of rows, as the interpreter has them.
///
/// # Safety
/// The machine has AVX-512; `code` is that of the launch's program.
pub(in crate::cpu::rowkernel) unsafe fn rows(
    launch: &Launch<'_>,
    (program, code): (&Program, &Code),
    rows: Range<usize>,
    columns: Range<usize>,
) {
    let count = columns.len();
    let arguments = |rows| Arguments {
        pointers: launch.pointers().cast_const(),
        scalars: launch.scalar(0, 0),
        rows,
        columns: count / COLUMNS * COLUMNS,
        rest: usize::from(!count.is_multiple_of(COLUMNS)),
        pool: code.pool.as_ptr(),
    };
    for first in rows.clone().step_by(program.block) {
        let count = program.block.min(rows.end - first);
        point(launch, program, first..first + count, columns.start);
        for &(load, scalar) in &program.numbers {
            for row in 0..count {
                // SAFETY: see the head of the file.
                unsafe { *launch.scalar(scalar, row) = launch.number(load, first + row) };
            }
        }
        // SAFETY: the caller's promise; pointers and numbers of the block have just been written.
        unsafe { code.call(&arguments(count)) };
        if columns.start > 0 {
            continue;
        }
        for &(result, single) in &program.singles {
            for row in 0..count {
                let value = match single {
                    Single::Const(bits) => f32::from_bits(bits),
                    // SAFETY: see the head of the file.
                    Single::Scalar(scalar) => unsafe { *launch.scalar(scalar, row) },
                };
                let (dtype, at) = launch.result(result, first + row);
                store_one(value, dtype, at);
            }
        }
    }
}

/// Writes where the rows of a block begin, and those that are asked for, which may not be there.
fn point(launch: &Launch<'_>, program: &Program, rows: Range<usize>, column: usize) {
    let width = program.pointers.len();
    for (at, pointer) in program.pointers.iter().enumerate() {
        // SAFETY: the table has room for the pointers of a block, and of the next where one is asked.
        let write = |row: usize, place: *const u8| unsafe {
            *launch.pointers().add(row * width + at) = place;
        };
        let parts = if program.later(at) { 2 } else { 1 };
        let (first, step) = match *pointer {
            Pointer::Result(result) => {
                let (dtype, first) = launch.result(result, rows.start);
                let step = launch.kernel.results[result].stride * dtype.bytes();
                (first.wrapping_add(column * dtype.bytes()).cast_const(), step)
            }
            Pointer::Load(load) => {
                let load = &launch.kernel.loads[load];
                let (access, size) = (load.access, load.dtype.bytes());
                let before = if access.columns == Columns::All { column } else { 0 };
                let base = launch.bound.operands[access.operand];
                let place = |row| base.wrapping_add((launch.place(load, row) + before) * size);
                match access.rows {
                    RowMap::Fixed => (place(rows.start), 0),
                    RowMap::OWN => (place(rows.start), access.stride * size),
                    RowMap::Affine { .. } | RowMap::Segment(_) => {
                        for part in 0..parts {
                            for (to, row) in rows.clone().enumerate() {
                                let row = (row + part * program.block).min(launch.kernel.rows - 1);
                                write(part * program.block + to, place(row));
                            }
                        }
                        continue;
                    }
                }
            }
        };
        for part in 0..parts {
            let mut place = first.wrapping_add(part * program.block * step);
            for to in 0..rows.len() {
                write(part * program.block + to, place);
                place = place.wrapping_add(step);
            }
        }
    }
}
