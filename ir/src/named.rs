//! Enums whose members have names: each name stands beside its member.

/// Declares an enum as it is written, the name of every member beside it. `ALL` lists the members in
/// their order, `name` and `from_name` lead from a member to its name and back.
#[macro_export]
macro_rules! named {
    ($(#[$doc:meta])* pub enum $type:ident {
        $($(#[$about:meta])* $member:ident = $name:literal,)+
    }) => {
        $(#[$doc])*
        pub enum $type { $($(#[$about])* $member,)+ }

        impl $type {
            /// All of them, in order.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$member),+];

            /// Its name in text.
            pub fn name(self) -> &'static str {
                match self { $(Self::$member => $name,)+ }
            }

            /// The one called `name`.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.into_iter().find(|member| member.name() == name)
            }
        }
    };
}
