//! Parts of a plan's lines: buffers and where they lie.

use crate::entity::Entity;
use crate::line::{Line, Read};
use crate::plan::{Buffer, BufferId, Root};

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

    /// `workspace + 64`.
    pub(super) fn root(&mut self) -> Read<(Root, u64)> {
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
        Ok((root, self.number()?))
    }

    /// `workspace + 64 f32[2,8]`, the place and type of a step's result.
    pub(super) fn place(&mut self) -> Read<Buffer> {
        let (root, offset) = self.root()?;
        Ok(Buffer { root, offset, ty: self.ty()? })
    }
}
