//! The part of Python's pickle that dicts of tensors are written in, as data.
//!
//! A pickle is a program. Here it can only make numbers, texts, lists, dicts and descriptions of
//! tensors: nothing is called, whatever it names, and a name outside the list is an error as soon as
//! it is read. Values lie in an arena and refer to each other by number, so nesting costs no stack and
//! what is shared is never copied. `formats.md §0`.

use std::collections::HashMap;

use super::encoding::Encoding;
use crate::error::{Error, Result};

/// Most values that a pickle may make.
const MOST_VALUES: usize = 1 << 20;

/// A value, by its place in the arena.
type Id = usize;

/// What a pickle can make.
#[derive(Clone, Debug)]
enum Value {
    /// Nothing, a truth value, a number with a point: what no tensor needs.
    Plain,
    Int(i64),
    Text(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Name(Name),
    Storage(Storage),
    Tensor(Tensor),
}

/// A name that a pickle may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    OrderedDict,
    /// With the number of arguments without metadata: the type comes from the storage, or is the last.
    Tensor,
    TypedTensor,
    Parameter,
    /// A storage of elements; of bytes where the encoding is not said.
    Storage(Option<Encoding>),
    /// An element type; none where it is one that is not read.
    Type(Option<Encoding>),
    /// What has no part in tensors.
    Plain,
}

/// The bytes that tensors are parts of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Storage {
    /// Which file of the archive.
    pub(super) key: String,
    /// Elements, or bytes where the encoding is not said.
    pub(super) count: u64,
    encoding: Option<Encoding>,
}

impl Storage {
    /// Whether its count is one of bytes, whatever the elements are.
    pub(super) fn is_bytes(&self) -> bool {
        self.encoding.is_none()
    }
}

/// A tensor: a view of a storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tensor {
    pub(super) storage: Storage,
    pub(super) encoding: Encoding,
    /// Elements before its first.
    pub(super) offset: u64,
    pub(super) shape: Vec<u64>,
    /// Elements between neighbours along each axis.
    pub(super) strides: Vec<u64>,
}

/// Names that stand for weights in a dict around them.
const WRAPPERS: [&str; 5] = ["model_state", "state_dict", "module", "model", "params"];

fn damaged(what: impl Into<String>) -> Error {
    Error::input("E0974", what.into()).help(super::table::DOWNLOAD_AGAIN)
}

fn refused(what: impl Into<String>) -> Error {
    Error::input("E0973", what.into()).help(
        "only dicts of tensors are read; save one in Python: \
         `torch.save(model.state_dict(), FILE)`, or safetensors",
    )
}

fn known(module: &str, name: &str) -> Option<Name> {
    use Encoding::{Bf16, Bool, F8E4M3, F8E5M2, F16, F32, F64};
    use Encoding::{I8, I16, I32, I64, U8, U16, U32, U64};
    Some(match (module, name) {
        ("collections", "OrderedDict") => Name::OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2") => Name::Tensor,
        ("torch._utils", "_rebuild_tensor_v3") => Name::TypedTensor,
        ("torch._utils", "_rebuild_parameter") => Name::Parameter,
        ("torch.storage", "UntypedStorage") => Name::Storage(None),
        ("torch", "FloatStorage") => Name::Storage(Some(F32)),
        ("torch", "DoubleStorage") => Name::Storage(Some(F64)),
        ("torch", "HalfStorage") => Name::Storage(Some(F16)),
        ("torch", "BFloat16Storage") => Name::Storage(Some(Bf16)),
        ("torch", "ByteStorage") => Name::Storage(Some(U8)),
        ("torch", "CharStorage") => Name::Storage(Some(I8)),
        ("torch", "ShortStorage") => Name::Storage(Some(I16)),
        ("torch", "IntStorage") => Name::Storage(Some(I32)),
        ("torch", "LongStorage") => Name::Storage(Some(I64)),
        ("torch", "BoolStorage") => Name::Storage(Some(Bool)),
        ("torch", "float32") => Name::Type(Some(F32)),
        ("torch", "float64") => Name::Type(Some(F64)),
        ("torch", "float16") => Name::Type(Some(F16)),
        ("torch", "bfloat16") => Name::Type(Some(Bf16)),
        ("torch", "float8_e4m3fn") => Name::Type(Some(F8E4M3)),
        ("torch", "float8_e5m2") => Name::Type(Some(F8E5M2)),
        ("torch", "int64") => Name::Type(Some(I64)),
        ("torch", "int32") => Name::Type(Some(I32)),
        ("torch", "int16") => Name::Type(Some(I16)),
        ("torch", "int8") => Name::Type(Some(I8)),
        ("torch", "uint64") => Name::Type(Some(U64)),
        ("torch", "uint32") => Name::Type(Some(U32)),
        ("torch", "uint16") => Name::Type(Some(U16)),
        ("torch", "uint8") => Name::Type(Some(U8)),
        ("torch", "bool") => Name::Type(Some(Bool)),
        (
            "torch",
            "complex32" | "complex64" | "complex128" | "float8_e4m3fnuz" | "float8_e5m2fnuz"
            | "float8_e8m0fnu" | "float4_e2m1fn_x2",
        ) => Name::Type(None),
        ("torch", "Size" | "device") => Name::Plain,
        _ => return None,
    })
}

/// The tensors of a pickle by name, in its order.
///
/// # Errors
/// E0973 for a pickle that holds something else than a dict of tensors, E0974 for one that is damaged.
pub(super) fn tensors(bytes: &[u8]) -> Result<Vec<(String, Tensor)>> {
    let mut machine = Machine { rest: bytes, ..Machine::default() };
    let made = machine.run()?;
    let Value::Dict(mut entries) = machine.values[made].clone() else {
        return Err(refused("it does not hold a dict of tensors"));
    };
    let inside = entries.iter().find_map(|(key, value)| match machine.pair(*key, *value) {
        (Value::Text(key), Value::Dict(inside)) if WRAPPERS.contains(&key.as_str()) => {
            machine.any_tensor(inside).then(|| inside.clone())
        }
        _ => None,
    });
    if let Some(inside) = inside {
        entries = inside;
    }
    let mut out = Vec::new();
    for (key, value) in entries {
        match machine.pair(key, value) {
            (Value::Text(name), Value::Tensor(tensor)) => out.push((name.clone(), tensor.clone())),
            (_, Value::Tensor(_)) => return Err(refused("a tensor has a name that is not text")),
            (Value::Text(name), Value::Dict(inside)) if machine.any_tensor(inside) => {
                return Err(refused(format!(
                    "the tensors of \"{name}\" lie in a dict of their own"
                )));
            }
            _ => {}
        }
    }
    match out.is_empty() {
        true => Err(refused("it does not hold a dict of tensors")),
        false => Ok(out),
    }
}

/// Runs a pickle.
#[derive(Default)]
struct Machine<'b> {
    rest: &'b [u8],
    values: Vec<Value>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'b> Machine<'b> {
    fn pair(&self, key: Id, value: Id) -> (&Value, &Value) {
        (&self.values[key], &self.values[value])
    }

    fn any_tensor(&self, entries: &[(Id, Id)]) -> bool {
        entries.iter().any(|(_, value)| matches!(self.values[*value], Value::Tensor(_)))
    }

    fn take(&mut self, count: usize) -> Result<&'b [u8]> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or_else(|| damaged("its description of tensors is cut off"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn word(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.take(4)?.try_into().expect("four bytes were taken")))
    }

    fn line(&mut self) -> Result<&'b str> {
        let end = self.rest.iter().position(|byte| *byte == b'\n');
        let line = self.take(end.map_or(usize::MAX, |end| end + 1))?;
        std::str::from_utf8(&line[..line.len() - 1]).map_err(|_| damaged("a name is not UTF-8"))
    }

    fn text(&mut self, count: usize) -> Result<Value> {
        let text = std::str::from_utf8(self.take(count)?);
        Ok(Value::Text(text.map_err(|_| damaged("a text is not UTF-8"))?.to_owned()))
    }

    fn push(&mut self, value: Value) -> Result<()> {
        if self.values.len() == MOST_VALUES {
            return Err(refused(format!("it makes more than {MOST_VALUES} values")));
        }
        self.stack.push(self.values.len());
        self.values.push(value);
        Ok(())
    }

    fn pop(&mut self) -> Result<Id> {
        let below = self.marks.last().copied().unwrap_or(0);
        match self.stack.len() > below {
            true => Ok(self.stack.pop().expect("it is not empty")),
            false => Err(damaged("it takes a value where there is none")),
        }
    }

    fn until_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().ok_or_else(|| damaged("it takes values up to no mark"))?;
        Ok(self.stack.split_off(mark))
    }

    fn tuple(&mut self, count: usize) -> Result<()> {
        let mut items = (0..count).map(|_| self.pop()).collect::<Result<Vec<Id>>>()?;
        items.reverse();
        self.push(Value::Tuple(items))
    }

    fn append(&mut self, items: Vec<Id>) -> Result<()> {
        let list = self.pop()?;
        self.stack.push(list);
        match &mut self.values[list] {
            Value::List(all) => all.extend(items),
            _ => return Err(damaged("it appends to what is not a list")),
        }
        Ok(())
    }

    fn set(&mut self, items: &[Id]) -> Result<()> {
        let dict = self.pop()?;
        self.stack.push(dict);
        let pairs = items.chunks_exact(2);
        let whole = pairs.remainder().is_empty();
        match &mut self.values[dict] {
            Value::Dict(all) if whole => all.extend(pairs.map(|pair| (pair[0], pair[1]))),
            _ => return Err(damaged("it sets entries of what is not a dict")),
        }
        Ok(())
    }

    /// Runs to the end; gives the value that is left.
    fn run(&mut self) -> Result<Id> {
        loop {
            match self.byte()? {
                b'.' => return self.pop(),
                0x80 => match self.byte()? {
                    2 | 3 => {}
                    version => {
                        return Err(refused(format!("it is a pickle of version {version}, not 2")));
                    }
                },
                b'(' => self.marks.push(self.stack.len()),
                b'N' | 0x88 | 0x89 => self.push(Value::Plain)?,
                b'G' => {
                    self.take(8)?;
                    self.push(Value::Plain)?;
                }
                b'J' => {
                    let value = self.word()?.cast_signed();
                    self.push(Value::Int(value.into()))?;
                }
                b'K' => {
                    let value = self.byte()?;
                    self.push(Value::Int(value.into()))?;
                }
                b'M' => {
                    let value = self.take(2)?;
                    self.push(Value::Int(u16::from_le_bytes([value[0], value[1]]).into()))?;
                }
                0x8a => {
                    let value = self.long()?;
                    self.push(value)?;
                }
                b'X' => {
                    let count = self.word()? as usize;
                    let text = self.text(count)?;
                    self.push(text)?;
                }
                b'U' => {
                    let count = self.byte()? as usize;
                    let text = self.text(count)?;
                    self.push(text)?;
                }
                b')' => self.push(Value::Tuple(Vec::new()))?,
                code @ 0x85..=0x87 => self.tuple(usize::from(code - 0x84))?,
                b't' => {
                    let items = self.until_mark()?;
                    self.push(Value::Tuple(items))?;
                }
                b']' => self.push(Value::List(Vec::new()))?,
                b'a' => {
                    let item = self.pop()?;
                    self.append(vec![item])?;
                }
                b'e' => {
                    let items = self.until_mark()?;
                    self.append(items)?;
                }
                b'}' => self.push(Value::Dict(Vec::new()))?,
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.set(&[key, value])?;
                }
                b'u' => {
                    let items = self.until_mark()?;
                    self.set(&items)?;
                }
                b'q' => {
                    let at = self.byte()?.into();
                    self.keep(at)?;
                }
                b'r' => {
                    let at = self.word()?;
                    self.keep(at)?;
                }
                b'h' => {
                    let at = self.byte()?.into();
                    self.kept(at)?;
                }
                b'j' => {
                    let at = self.word()?;
                    self.kept(at)?;
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    let known = known(module, name).ok_or_else(|| {
                        let plain = |c: char| !c.is_control();
                        let name: String = format!("{module}.{name}")
                            .chars()
                            .filter(|c| plain(*c))
                            .take(80)
                            .collect();
                        refused(format!("it asks for `{name}`, which is not called here"))
                    })?;
                    self.push(Value::Name(known))?;
                }
                b'Q' => {
                    let storage = self.storage()?;
                    self.push(storage)?;
                }
                b'R' => {
                    let made = self.reduced()?;
                    self.push(made)?;
                }
                b'b' => {
                    let (_, object) = (self.pop()?, self.pop()?);
                    self.stack.push(object);
                    if !matches!(self.values[object], Value::Dict(_)) {
                        return Err(refused("it changes an object that is not a dict"));
                    }
                }
                code => {
                    let what =
                        format!("it uses operation {code:#04x}, which no dict of tensors needs");
                    return Err(refused(what));
                }
            }
        }
    }

    fn keep(&mut self, at: u32) -> Result<()> {
        let value = self.pop()?;
        self.stack.push(value);
        self.memo.insert(at, value);
        Ok(())
    }

    fn kept(&mut self, at: u32) -> Result<()> {
        let value = self.memo.get(&at).ok_or_else(|| damaged("it reads a value it never kept"))?;
        self.stack.push(*value);
        // What is put on the stack again counts as well, so that the work is bounded.
        match self.stack.len() > MOST_VALUES {
            true => Err(refused(format!("it makes more than {MOST_VALUES} values"))),
            false => Ok(()),
        }
    }

    /// A whole number of up to eight bytes.
    fn long(&mut self) -> Result<Value> {
        let count = usize::from(self.byte()?);
        if count > 8 {
            return Err(refused("it holds a number of more than 64 bits"));
        }
        let bytes = self.take(count)?;
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut all = [if negative { 0xff } else { 0 }; 8];
        all[..count].copy_from_slice(bytes);
        Ok(Value::Int(i64::from_le_bytes(all)))
    }

    fn items(&self, id: Id) -> Result<&[Id]> {
        match &self.values[id] {
            Value::Tuple(items) => Ok(items),
            _ => Err(damaged("a tuple is missing where a tensor is described")),
        }
    }

    fn count(&self, id: Id) -> Result<u64> {
        match self.values[id] {
            Value::Int(value) if value >= 0 => Ok(value.cast_unsigned()),
            _ => Err(damaged("a size of a tensor is not a number, or is negative")),
        }
    }

    fn counts(&self, id: Id) -> Result<Vec<u64>> {
        self.items(id)?.iter().map(|id| self.count(*id)).collect()
    }

    /// A file of the archive, by `("storage", class, key, place, count)`.
    fn storage(&mut self) -> Result<Value> {
        let id = self.pop()?;
        let items = self.items(id)?;
        let fault = || damaged("the bytes of a tensor are described wrongly");
        let [tag, class, key, _, count] = items else { return Err(fault()) };
        let (Value::Text(tag), Value::Name(Name::Storage(encoding)), Value::Text(key)) =
            (&self.values[*tag], &self.values[*class], &self.values[*key])
        else {
            return Err(fault());
        };
        let plain = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_digit());
        if tag != "storage" || !plain {
            return Err(fault());
        }
        let (key, encoding) = (key.clone(), *encoding);
        Ok(Value::Storage(Storage { key, count: self.count(*count)?, encoding }))
    }

    /// What a call makes, of the few that are known.
    fn reduced(&mut self) -> Result<Value> {
        let (arguments, called) = (self.pop()?, self.pop()?);
        let items = self.items(arguments)?.to_vec();
        let Value::Name(called) = self.values[called] else {
            return Err(refused("it calls what is not a name"));
        };
        match (called, &items[..]) {
            (Name::OrderedDict, []) => Ok(Value::Dict(Vec::new())),
            (Name::OrderedDict, [list]) => {
                let Value::List(pairs) = &self.values[*list] else {
                    return Err(damaged("a dict is described wrongly"));
                };
                let pair = |id: &Id| match self.items(*id)? {
                    [key, value] => Ok((*key, *value)),
                    _ => Err(damaged("a dict is described wrongly")),
                };
                Ok(Value::Dict(pairs.iter().map(pair).collect::<Result<_>>()?))
            }
            (Name::Tensor, [storage, offset, shape, strides, _, _, ..]) if items.len() <= 7 => {
                self.tensor(*storage, [*offset, *shape, *strides], None)
            }
            (Name::TypedTensor, [storage, offset, shape, strides, _, _, ty, ..])
                if items.len() <= 8 =>
            {
                self.tensor(*storage, [*offset, *shape, *strides], Some(*ty))
            }
            (Name::Parameter, [tensor, _, _]) => match &self.values[*tensor] {
                Value::Tensor(tensor) => Ok(Value::Tensor(tensor.clone())),
                _ => Err(damaged("a parameter is not a tensor")),
            },
            (Name::Plain, _) => Ok(Value::Plain),
            _ => Err(refused("it calls something with other arguments than tensors need")),
        }
    }

    fn tensor(
        &self,
        storage: Id,
        [offset, shape, strides]: [Id; 3],
        ty: Option<Id>,
    ) -> Result<Value> {
        let Value::Storage(storage) = &self.values[storage] else {
            return Err(damaged("a tensor has no bytes"));
        };
        let said = ty.map(|ty| &self.values[ty]);
        let encoding = match (storage.encoding, said) {
            (Some(encoding), None) => encoding,
            (None, Some(Value::Name(Name::Type(Some(encoding))))) => *encoding,
            _ => return Err(refused("a tensor has a type that is not read")),
        };
        let (shape, strides) = (self.counts(shape)?, self.counts(strides)?);
        if shape.len() != strides.len() || shape.len() > 8 {
            return Err(damaged("shape and strides of a tensor do not go together"));
        }
        let (offset, storage) = (self.count(offset)?, storage.clone());
        Ok(Value::Tensor(Tensor { storage, encoding, offset, shape, strides }))
    }
}
