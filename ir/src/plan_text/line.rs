//! Parts of a plan's lines: buffers and where they lie.

use crate::entity::Entity;
use crate::line::{Line, Read};
use crate::plan::{Buffer, BufferId, Columns, Root};

impl Line<'_> {
    pub(super) fn buffer(&mut self) -> Read<BufferId> {
        self.expect("%")?;
        Ok(BufferId::from_index(self.index()? as usize))
    }

    /// `%1, %2`, or nothing.
    pub(super) fn buffers<A: FromIterator<BufferId>>(&mut self) -> Read<A> {
        let mut list = Vec::new();
        if self.peek("%") {
            list.push(self.buffer()?);
            while self.accept(",") {
                list.push(self.buffer()?);
            }
        }
        Ok(list.into_iter().collect())
    }

    /// `workspace + 64` or `workspace + 64 columns 32..64 of 96`, then `before` and a type.
    pub(super) fn place(&mut self, before: &str) -> Read<Buffer> {
        let root = match self.word()? {
            "workspace" => Root::Workspace,
            "persistent" => Root::Persistent,
            "input" => Root::Input(self.index()?),
            "weight" => Root::Weight(self.index()?),
            "state" => Root::State(self.index()?),
            "output" => Root::Output(self.index()?),
            word => return Err(format!("there is no memory called {word}")),
        };
        self.expect("+")?;
        let offset = self.number()?;
        let columns = match self.accept("columns ") {
            true => Some(self.columns()?),
            false => None,
        };
        self.expect(before)?;
        Ok(Buffer { ty: self.ty()?, root, offset, columns })
    }

    /// `32..64 of 96`.
    fn columns(&mut self) -> Read<Columns> {
        let first = self.number()?;
        self.expect("..")?;
        let end = self.number()?;
        self.expect("of")?;
        let stride = self.number()?;
        let width = end.checked_sub(first).ok_or("columns that end before they begin")?;
        Ok(Columns { first, width, stride })
    }
}
