//! What outlives a run in memory of the process: the arena of devices that have no other memory.

use crate::buffer::AlignedBytes;
use crate::device::{Arena, Value};
use crate::errors::NoMemory;
use std::any::Any;

/// Values at the offsets that the plan gives them.
pub struct HostArena {
    memory: AlignedBytes,
    values: Vec<Value>,
}

impl HostArena {
    /// `bytes` zero bytes that hold `values`.
    ///
    /// # Errors
    /// Where the system does not give them.
    pub fn reserve(bytes: u64, values: Vec<Value>) -> Result<Box<dyn Arena>, NoMemory> {
        let memory = usize::try_from(bytes).ok().and_then(AlignedBytes::try_zeroed);
        Ok(Box::new(Self { memory: memory.ok_or(NoMemory::of(bytes))?, values }))
    }

    /// The memory of an arena that [`Self::reserve`] has made.
    ///
    /// # Panics
    /// For an arena of another device.
    pub fn memory(arena: &mut dyn Arena) -> &mut AlignedBytes {
        let any: &mut dyn Any = arena;
        &mut any.downcast_mut::<Self>().expect("an arena goes to the device that made it").memory
    }

    fn range(&self, at: usize) -> std::ops::Range<usize> {
        let value = &self.values[at];
        let start = value.offset as usize;
        start..start + value.ty.bytes() as usize
    }
}

impl Arena for HostArena {
    fn values(&self) -> &[Value] {
        &self.values
    }

    fn bytes(&self) -> u64 {
        self.memory.len() as u64
    }

    fn read(&self, at: usize, look: &mut dyn FnMut(&[u8])) {
        look(&self.memory.bytes()[self.range(at)]);
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        let range = self.range(at);
        self.memory.bytes_mut()[range].copy_from_slice(bytes);
    }

    fn fill(&mut self, byte: u8) {
        self.memory.bytes_mut().fill(byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyid_ir::{DType, TensorType};

    #[test]
    fn values_lie_where_the_plan_says_and_are_zero_at_first() {
        let value = |name: &str, offset| Value {
            name: name.into(),
            branch: 0,
            ty: TensorType::new(DType::F32, [2]),
            offset,
        };
        let mut arena = HostArena::reserve(128, vec![value("a", 0), value("b", 64)]).unwrap();
        let read = |arena: &dyn Arena, at| {
            let mut out = Vec::new();
            arena.read(at, &mut |bytes| out.extend_from_slice(bytes));
            out
        };
        assert_eq!((read(&*arena, 1), arena.bytes()), (vec![0; 8], 128));
        arena.fill(7);
        arena.write(1, &[9; 8]);
        assert_eq!((read(&*arena, 0), read(&*arena, 1)), (vec![7; 8], vec![9; 8]));
        let memory = HostArena::memory(&mut *arena).bytes();
        assert_eq!((&memory[60..64], &memory[64..72], memory[72]), (&[7; 4][..], &[9; 8][..], 7));
        assert_eq!(HostArena::reserve(u64::MAX, Vec::new()).err().unwrap().bytes, u64::MAX);
    }
}
