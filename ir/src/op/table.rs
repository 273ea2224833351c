//! What the table of operations says, as code: the type, names, operands and classes, attributes.
//!
//! An attribute is a field whose type has a form in text; all others (paths, functions, indices)
//! are written in other ways. Ranges are checked by [`mod@crate::infer`], not here.

use super::{Axes, IndexArg, ReduceFn};

/// An attribute of an op, to be read or changed.
pub(crate) enum Attribute<'o> {
    /// A whole number.
    Int(&'o mut usize),
    /// A whole number, 1 unless it is given.
    Count(&'o mut usize),
    /// A number.
    Float(&'o mut f64),
    /// `false` unless it is given.
    Flag(&'o mut bool),
    /// A list of whole numbers.
    List(&'o mut Axes),
    /// So many whole numbers; where there is a default, each is that unless they are given.
    Sizes(&'o mut [usize], Option<usize>),
    /// 0 or 1 for either side, 0 unless they are given.
    Sides(&'o mut [bool; 2]),
    /// A list of numbers, or as another attribute a single one.
    Values(&'o mut Vec<f64>),
}

/// A field of an op.
pub(super) trait Field {
    /// The attribute that it is, if it is one.
    fn attribute(&mut self, name: &str) -> Option<Attribute<'_>>;
}

macro_rules! fields {
    ($($type:ty: $field:ident $name:ident => $attribute:expr;)+) => {
        $(impl Field for $type {
            fn attribute(&mut self, $name: &str) -> Option<Attribute<'_>> {
                let $field = self;
                $attribute
            }
        })+
    };
}

fields! {
    usize: field name => Some(match name {
        "last" => Attribute::Count(field),
        _ => Attribute::Int(field),
    });
    f64: field _name => Some(Attribute::Float(field));
    bool: field _name => Some(Attribute::Flag(field));
    Axes: field _name => Some(Attribute::List(field));
    [bool; 2]: field _name => Some(Attribute::Sides(field));
    Vec<f64>: field _name => Some(Attribute::Values(field));
    // Steps of 1 need not be said.
    [usize; 3]: field name => Some(Attribute::Sizes(field, (name == "stride").then_some(1)));
    [[usize; 2]; 3]: field _name => Some(Attribute::Sizes(field.as_flattened_mut(), Some(0)));
    String: _field _name => None;
    Vec<IndexArg>: _field _name => None;
    u32: _field _name => None;
    ReduceFn: _field _name => None;
}

/// Makes the type of all ops. Each has its name, the smallest and largest number of operands and
/// its class behind it; the members of a family are named as their functions are.
macro_rules! ops {
    (
        $(#[$doc:meta])* pub enum $type:ident {
            $($(#[$about:meta])* $op:ident [$name:expr, $arity:expr, $class:ident]
                $({ $($(#[$field_about:meta])* $field:ident: $field_type:ty,)* })?,)*
        }
        families {
            $($(#[$family_about:meta])* $family:ident($function:ty) $family_arity:expr,)*
        }
    ) => {
        $(#[$doc])*
        pub enum $type {
            $($(#[$about])* $op $({ $($(#[$field_about])* $field: $field_type,)* })?,)*
            $($(#[$family_about])* $family($function),)*
        }

        impl $type {
            /// Name, smallest and largest number of operands, and class.
            #[allow(unused_variables)]
            fn form(&self) -> (&'static str, (usize, usize), OpClass) {
                match self {
                    $(Self::$op $({ $($field,)* })? => ($name, $arity, OpClass::$class),)*
                    $(Self::$family(f) => (f.name(), $family_arity, OpClass::Primitive),)*
                }
            }

            /// Every op outside of the families, with attributes that reading fills in.
            pub(crate) fn blank() -> Vec<Self> {
                vec![$(Self::$op $({ $($field: Default::default(),)* })?,)*]
            }

            /// The attributes by name, in the order of the language reference.
            pub(crate) fn attributes(&mut self) -> Vec<(&'static str, Attribute<'_>)> {
                let mut list = Vec::new();
                if self.is_structure() {
                    return list;
                }
                match self {
                    $(Self::$op $({ $($field,)* })? => {
                        $($({
                            let name = stringify!($field);
                            list.extend(table::Field::attribute($field, name).map(|a| (name, a)));
                        })*)?
                    })*
                    $(Self::$family(_) => {})*
                }
                list
            }
        }
    };
}

pub(super) use ops;
