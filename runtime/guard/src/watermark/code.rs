//! The message of a mark: payload, checksum and the code that survives wrong bits.
//!
//! 36 payload bits and a CRC-12 make 48 message bits. A tail-biting convolutional code of rate ½ and
//! constraint length 7 (generators 133 and 171, octal) makes 96 channel bits of them. Decoding is
//! by soft decisions: a channel bit is a number whose sign is the bit and whose size is how sure it
//! is. Nothing here knows pictures (`watermark.md` §1).

/// Bits of the payload: four of version, 32 of the content id.
pub const PAYLOAD_BITS: usize = 36;
/// Payload and checksum.
pub const MESSAGE_BITS: usize = 48;
/// Bits that are put into a tile.
pub const CHANNEL_BITS: usize = 96;

const STATES: usize = 64;
const GENERATORS: [u8; 2] = [0o133, 0o171];

/// What a mark says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload {
    /// 1 under the public key, 2 under a private one, 3 by networks.
    pub version: u8,
    /// The id of the content.
    pub id: u32,
}

impl Payload {
    fn bits(self) -> u64 {
        u64::from(self.version & 15) << 32 | u64::from(self.id)
    }

    /// The 48 message bits; the first is the highest.
    pub fn message(self) -> u64 {
        self.bits() << 12 | u64::from(crc12(self.bits()))
    }

    /// The channel bits, first bit first.
    pub fn channel(self) -> [bool; CHANNEL_BITS] {
        encode(self.message())
    }

    /// The payload that `soft` holds, if its checksum is right.
    pub fn decode(soft: &[f64; CHANNEL_BITS]) -> Option<Self> {
        Self::of_message(viterbi(soft))
    }

    /// The payload of 48 message bits, if their checksum is right.
    pub fn of_message(message: u64) -> Option<Self> {
        let bits = message >> 12;
        let right = u64::from(crc12(bits)) == message & 0xFFF;
        right.then_some(Self { version: (bits >> 32) as u8, id: bits as u32 })
    }
}

/// CRC-12, polynomial 0x80F, start 0, highest bit first, over the 36 low bits.
pub fn crc12(payload: u64) -> u16 {
    let mut crc = 0u16;
    for at in (0..PAYLOAD_BITS).rev() {
        let bit = (payload >> at & 1) as u16;
        let top = crc >> 11 & 1 ^ bit;
        crc = crc << 1 & 0xFFF ^ if top == 1 { 0x80F } else { 0 };
    }
    crc
}

/// The two channel bits of a register of seven bits, the newest on top.
fn outputs(register: u8) -> [bool; 2] {
    GENERATORS.map(|generator| (register & generator).count_ones() % 2 == 1)
}

/// The channel bits of a message. The register starts with the message's last bits, so that the code
/// has neither beginning nor end.
fn encode(message: u64) -> [bool; CHANNEL_BITS] {
    let bit = |at: usize| (message >> (MESSAGE_BITS - 1 - at) & 1) as u8;
    let mut state = (1..=6).fold(0u8, |state, back| state << 1 | bit(MESSAGE_BITS - back));
    let mut out = [false; CHANNEL_BITS];
    for (at, pair) in out.chunks_exact_mut(2).enumerate() {
        let register = bit(at) << 6 | state;
        pair.copy_from_slice(&outputs(register));
        state = register >> 1;
    }
    out
}

/// The likeliest message. Three laps around the code stand for its missing ends; the middle one
/// counts.
fn viterbi(soft: &[f64; CHANNEL_BITS]) -> u64 {
    const LAPS: usize = 3;
    let mut scores = [0f64; STATES];
    let mut choices = [[false; STATES]; LAPS * MESSAGE_BITS];
    for (step, choice) in choices.iter_mut().enumerate() {
        let at = step % MESSAGE_BITS;
        let pair = [soft[2 * at], soft[2 * at + 1]];
        let mut next = [0f64; STATES];
        for (state, score) in next.iter_mut().enumerate() {
            let arrive = |older: bool| {
                let before = (state & 31) << 1 | usize::from(older);
                let register = (state >> 5 << 6 | before) as u8;
                let gain: f64 = outputs(register)
                    .iter()
                    .zip(pair)
                    .map(|(&bit, value)| if bit { value } else { -value })
                    .sum();
                scores[before] + gain
            };
            let (zero, one) = (arrive(false), arrive(true));
            choice[state] = one > zero;
            *score = zero.max(one);
        }
        scores = next;
    }
    let mut state = (0..STATES).fold(0, |best, s| if scores[s] > scores[best] { s } else { best });
    let mut message = 0u64;
    for step in (0..LAPS * MESSAGE_BITS).rev() {
        if step / MESSAGE_BITS == 1 {
            let at = step % MESSAGE_BITS;
            message |= (state as u64 >> 5) << (MESSAGE_BITS - 1 - at);
        }
        state = (state & 31) << 1 | usize::from(choices[step][state]);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyid_noise::NoiseStream;

    const KNOWN: Payload = Payload { version: 1, id: 0x9C1F_00A5 };

    fn packed(bits: &[bool]) -> u128 {
        bits.iter().fold(0, |sum, &bit| sum << 1 | u128::from(bit))
    }

    fn soft(payload: Payload, noise: f64, seed: u64) -> ([f64; CHANNEL_BITS], usize) {
        let mut out = [0.0; CHANNEL_BITS];
        let mut wrong = 0;
        for (at, (value, bit)) in out.iter_mut().zip(payload.channel()).enumerate() {
            let sign = if bit { 1.0 } else { -1.0 };
            *value = sign + noise * f64::from(NoiseStream::new(seed, 7).at(at as u64));
            wrong += usize::from((*value > 0.0) != bit);
        }
        (out, wrong)
    }

    #[test]
    fn checksums_and_code_words_are_those_of_the_paper() {
        assert_eq!(crc12(0), 0);
        assert_eq!(crc12(1 << 35), 0x00D);
        assert_eq!(crc12(0xA_AAAA_AAAA), 0x2A1);
        assert_eq!(KNOWN.message(), 0x19C1_F00A_5F69);
        assert_eq!(packed(&KNOWN.channel()), 0x9310_0854_9AD9_70D2_EA91_E395);
    }

    #[test]
    fn clean_words_decode_and_so_do_noisy_ones() {
        for k in 0..64u32 {
            let payload = Payload { version: 1 + (k % 2) as u8, id: k.wrapping_mul(0x9E37_79B9) };
            assert_eq!(Payload::decode(&soft(payload, 0.0, 0).0), Some(payload));
        }
        // A deviation of 0.6 gives about 5 % wrong bits, 0.75 about 9 %.
        let (mut right, mut bits) = ([0, 0], [0, 0]);
        for seed in 0..200 {
            for (at, noise) in [0.6, 0.75].into_iter().enumerate() {
                let (values, wrong) = soft(KNOWN, noise, seed);
                right[at] += usize::from(Payload::decode(&values) == Some(KNOWN));
                bits[at] += wrong;
            }
        }
        assert!(bits[0] > 700 && bits[1] > 1300, "{bits:?}");
        assert!(right[0] >= 198 && right[1] >= 170, "{right:?}");
    }

    #[test]
    fn noise_alone_is_refused_by_the_checksum() {
        let mut found = 0;
        for seed in 0..4096 {
            let values =
                std::array::from_fn(|at| f64::from(NoiseStream::new(seed, 9).at(at as u64)));
            found += usize::from(Payload::decode(&values).is_some());
        }
        // One in 4096 words has the right checksum by chance; eight would be rarer than 1e-5.
        assert!(found < 8, "{found}");
    }
}
