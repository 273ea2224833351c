//! Modules in primitives alone, as the decompositions of their ops say.

use anyid_ir::Module;
use anyid_ir::kernel::Target;
use anyid_passes::{decompose, flatten, straight};

/// Function `func` of `module` without calls and repeats, every composite replaced by primitives.
pub fn primitives(module: &Module, func: &str) -> Module {
    let target = Target { native: &[], ..Target::default() };
    let program = flatten::flatten(module, func).unwrap();
    let program = decompose::decompose(&program, &target).unwrap();
    let mut out = straight::empty(module);
    straight::add_function(&mut out, &program, func);
    out
}
