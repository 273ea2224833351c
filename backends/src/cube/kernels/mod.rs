//! What kernels compute: functions of cubecl over programs that are known when a shader is made.
//!
//! A [`Kernel`] is one shader. All memory is words of 32 bits, of which narrow elements share one, so that
//! the same kernels run where a device has no such types; [`element`] reads and writes elements of every
//! type. Numbers of rows and where operands begin are numbers of a launch, widths and strides are part of
//! the shader.

// Kernels are read by cubecl, which knows less of Rust: choices that are made when a shader is written stand apart
// from those that it makes, and numbers are written as their polynomials and steps of a reduction have them.
#![allow(
    clippy::approx_constant,
    clippy::collapsible_if,
    clippy::collapsible_match,
    clippy::excessive_precision,
    clippy::manual_is_multiple_of,
    clippy::single_match,
    clippy::unnecessary_cast
)]

pub(super) mod attention;
mod back;
pub(super) mod element;
mod math;
pub(super) mod matrices;
pub(super) mod moves;
pub(super) mod number;
pub(super) mod product;
pub(super) mod rows;

pub(super) use attention::Attention;
pub(super) use back::{Back, BackBias, Segments};
pub(super) use moves::{Check, Copy, Fill, Gather, Moved};
pub(super) use product::{Exact, Product, Sides};
pub(super) use rows::{Rows, Share};

use anyid_ir::DType;
use cubecl::ir::{ElemType, StorageType, UIntKind};
use cubecl::prelude::*;
use element::{Access, MemoryExpand, Quad};
use half::{bf16, f16};
use std::sync::Arc;

/// What a kernel does.
#[derive(Clone, Debug)]
pub(super) enum Body {
    /// A straight-line program over rows, in f32 or in whole numbers.
    Rows(Arc<Rows>),
    /// A copy of strided parts.
    Copy(Arc<Copy>),
    /// Rows picked by index.
    Gather(Gather),
    /// Numbers made of nothing else.
    Fill(Fill),
    /// Looks for an index that is no row of its table.
    Check(Check),
    /// Words moved as they are.
    Moved(Moved),
    /// A product or a convolution in tiles, with what follows its sums.
    Product(Arc<Product>),
    /// A product of few rows.
    Few(Arc<Product>),
    /// An attention in blocks.
    Attention(Arc<Attention>),
    /// The derivative of an attention.
    Back(Arc<Back>),
    /// That by the table of a bias.
    BackBias(Arc<BackBias>),
    /// Sums of segments.
    Segments(Segments),
    /// A product of whole numbers, a thread for every sum.
    Exact(Arc<Exact>),
}

/// A shader: what it does, on which memory, by how many threads.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    /// What it is called in messages and in its text.
    pub(super) name: String,
    pub(super) body: Body,
    /// How each piece of memory is bound.
    pub(super) accesses: Vec<Access>,
    /// How many numbers a launch gives it.
    pub(super) sizes: usize,
    /// Threads of a cube.
    pub(super) threads: u32,
    /// All of the above as text, by which equal kernels are known.
    pub(super) key: Arc<str>,
}

impl Kernel {
    pub(super) fn new(
        name: String,
        body: Body,
        accesses: Vec<Access>,
        sizes: usize,
        threads: u32,
    ) -> Self {
        // Not its name: equal kernels are compiled once.
        let key = format!("{threads} {accesses:?} {sizes} {body:?}").into();
        Self { name, body, accesses, sizes, threads, key }
    }
}

impl KernelMetadata for Kernel {
    fn name(&self) -> &'static str {
        "anyid"
    }

    fn id(&self) -> KernelId {
        KernelId::new::<Self>().cube_dim(CubeDim::new_1d(self.threads)).info(self.key.clone())
    }

    fn address_type(&self) -> StorageType {
        StorageType::Scalar(ElemType::UInt(UIntKind::U32))
    }
}

impl CubeKernel for Kernel {
    fn define(&self) -> KernelDefinition {
        let mut builder = KernelBuilder::default();
        AddressType::U32.register(&mut builder.scope);
        let word = u32::as_type(&builder.scope);
        let atom = Atomic::<u32>::as_type(&builder.scope);
        let quad = Quad::as_type(&builder.scope);
        let scope = &mut Scope::root(false);
        let mut words = Sequence::<Array<u32>>::__expand_new(scope);
        let mut atoms = Sequence::<Array<Atomic<u32>>>::__expand_new(scope);
        let mut quads = Sequence::<Array<Quad>>::__expand_new(scope);
        for access in &self.accesses {
            match access {
                Access::Words => {
                    words.__expand_push_method(scope, builder.output_array(word).into())
                }
                Access::Parts => {
                    atoms.__expand_push_method(scope, builder.output_array(atom).into())
                }
                Access::Quads => {
                    quads.__expand_push_method(scope, builder.output_array(quad).into())
                }
            }
        }
        let mut sizes = Sequence::<u32>::__expand_new(scope);
        for _ in 0..self.sizes {
            let size = builder.scalar(StorageType::Scalar(ElemType::UInt(UIntKind::U32)));
            sizes.__expand_push_method(scope, size.into());
        }
        let memory = MemoryExpand { words, atoms, quads, sizes };
        let scope = &mut builder.scope;
        let threads = self.threads;
        match &self.body {
            Body::Rows(rows) if rows.whole => {
                rows::rows::expand::<i32>(scope, memory, rows.clone(), threads);
            }
            Body::Rows(rows) => {
                rows::rows::expand::<f32>(scope, memory, rows.clone(), threads);
            }
            Body::Copy(copy) => moves::copy::expand(scope, memory, copy.clone(), threads),
            Body::Gather(gather) => moves::gather::expand(scope, memory, *gather, threads),
            Body::Fill(fill) => moves::fill::expand(scope, memory, *fill, threads),
            Body::Check(check) => moves::check::expand(scope, memory, *check, threads),
            Body::Moved(moved) => moves::moved::expand(scope, memory, *moved, threads),
            Body::Product(product) if product.units => match product.left.dtype {
                DType::F16 => matrices::product::expand::<f16>(scope, memory, product.clone()),
                _ => matrices::product::expand::<bf16>(scope, memory, product.clone()),
            },
            Body::Product(product) => {
                product::product::expand(scope, memory, product.clone());
            }
            Body::Few(product) => {
                product::few::expand(scope, memory, product.clone(), threads);
            }
            Body::Attention(a) if a.units => match a.query.0.dtype {
                DType::F16 => matrices::attention::expand::<f16>(scope, memory, a.clone()),
                _ => matrices::attention::expand::<bf16>(scope, memory, a.clone()),
            },
            Body::Attention(a) => attention::attention::expand(scope, memory, a.clone()),
            Body::Back(b) => back::back::expand(scope, memory, b.clone()),
            Body::BackBias(b) => back::back_bias::expand(scope, memory, b.clone(), threads),
            Body::Segments(s) => back::segments::expand(scope, memory, *s, threads),
            Body::Exact(exact) => {
                product::exact::expand(scope, memory, exact.clone(), threads);
            }
        }
        let settings =
            KernelSettings::default().cube_dim(CubeDim::new_1d(threads)).kernel_name(&self.name);
        builder.build(settings)
    }
}
