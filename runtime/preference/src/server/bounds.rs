//! How often somebody may ask: so many requests a second, a burst of as many.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Requests a second of one session.
const RATE: f64 = 100.0;
/// Sessions that are kept in mind.
const KEPT: usize = 4096;

/// Counts requests by session.
#[derive(Default)]
pub struct Bounds(Mutex<HashMap<String, (f64, Instant)>>);

impl Bounds {
    /// Whether `session` may ask once more at `now`.
    pub fn admit(&self, session: &str, now: Instant) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KEPT {
            // Who has not asked for a second may ask as often as anybody.
            known.retain(|_, (_, last)| now.duration_since(*last).as_secs_f64() < 1.0);
        }
        let (left, last) = known.entry(session.to_owned()).or_insert((RATE, now));
        *left = (*left + RATE * now.duration_since(*last).as_secs_f64()).min(RATE);
        *last = now;
        let admitted = *left >= 1.0;
        if admitted {
            *left -= 1.0;
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_burst_of_a_hundred_and_a_hundred_a_second() {
        let (bounds, start) = (Bounds::default(), Instant::now());
        let admitted = |count: usize, now| (0..count).filter(|_| bounds.admit("a", now)).count();
        assert_eq!(admitted(150, start), 100);
        assert_eq!(admitted(10, start + Duration::from_millis(55)), 5);
        assert!(bounds.admit("b", start));
        assert_eq!(admitted(150, start + Duration::from_secs(9)), 100);
    }
}
