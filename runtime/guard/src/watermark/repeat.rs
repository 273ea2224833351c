//! The message of a mark for networks that carry many bits: the 48 message bits over and over.
//!
//! Networks are trained to be read without a code, so that repeating is enough: values of the same
//! bit are added up. A mark is taken for one if the checksum and the version are right and most of
//! all bits agree with it.

use super::code::{MESSAGE_BITS, Payload};

/// Bits of a message of networks.
pub const REPEATED: usize = 256;
/// The version that such marks carry.
pub const VERSION: u8 = 3;
/// Least share of bits that agree. Of random bits 69 % do, with a deviation of 2 %, because each
/// message bit follows most of its five or six.
const AGREEING: f64 = 0.8;

/// What was read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Repeated {
    /// The payload, if it is one.
    pub payload: Option<Payload>,
    /// Share of bits that agree with it, or with the likeliest message.
    pub agreement: f64,
}

/// The bits that carry an id.
pub fn repeated(id: u32) -> [bool; REPEATED] {
    let message = Payload { version: VERSION, id }.message();
    std::array::from_fn(|at| message >> (MESSAGE_BITS - 1 - at % MESSAGE_BITS) & 1 == 1)
}

/// The id of values whose signs are the bits.
pub fn read_repeated(soft: &[f64; REPEATED]) -> Repeated {
    let mut sums = [0f64; MESSAGE_BITS];
    soft.iter().enumerate().for_each(|(at, value)| sums[at % MESSAGE_BITS] += value);
    let message = sums.iter().fold(0u64, |message, sum| message << 1 | u64::from(*sum > 0.0));
    let bit = |at: usize| message >> (MESSAGE_BITS - 1 - at % MESSAGE_BITS) & 1 == 1;
    let same = soft.iter().enumerate().filter(|(at, value)| (**value > 0.0) == bit(*at)).count();
    let agreement = same as f64 / REPEATED as f64;
    let payload = Payload::of_message(message)
        .filter(|payload| payload.version == VERSION && agreement >= AGREEING);
    Repeated { payload, agreement }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyid_noise::NoiseStream;

    #[test]
    fn ids_survive_wrong_bits_and_chance_makes_none() {
        let id = 0x9C1F_00A5;
        let mut noise = vec![0f32; REPEATED];
        let (mut decoded, mut highest) = (0, 0f64);
        for seed in 0..2000u64 {
            NoiseStream::new(seed, 5).fill(0, &mut noise);
            let random = read_repeated(&std::array::from_fn(|at| f64::from(noise[at])));
            assert_eq!(random.payload, None);
            highest = highest.max(random.agreement);
            // A value of 1 with noise as strong: a sixth of the bits is wrong.
            let bits = repeated(id);
            let marked: [f64; REPEATED] = std::array::from_fn(|at| {
                (if bits[at] { 1.0 } else { -1.0 }) + f64::from(noise[at])
            });
            let wrong = marked.iter().zip(bits).filter(|(v, bit)| (**v > 0.0) != *bit).count();
            let read = read_repeated(&marked);
            if let Some(payload) = read.payload {
                assert_eq!((payload.id, payload.version), (id, VERSION));
                decoded += 1;
            }
            assert!((0.05..0.3).contains(&(wrong as f64 / REPEATED as f64)));
        }
        assert!(highest < AGREEING, "{highest}");
        assert!(decoded > 900, "{decoded} of 2000");
        let clean = read_repeated(&repeated(7).map(|bit| if bit { 0.1 } else { -3.0 }));
        assert_eq!((clean.payload.map(|p| p.id), clean.agreement), (Some(7), 1.0));
    }
}
