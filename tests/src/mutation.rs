//! Frames that nobody would send: the rows of the table, mutated. Seeded, so that a failure can be repeated.

use fastrand::Rng;

use crate::rows::{self, Row};

pub struct Mutator {
    random: Rng,
    rows: Vec<Row>,
}

impl Mutator {
    pub fn seeded(seed: u64) -> Self {
        Self { random: Rng::with_seed(seed), rows: rows::all() }
    }

    /// One of the rows with one to six changes.
    pub fn frame(&mut self) -> Vec<u8> {
        let row = self.random.usize(..self.rows.len());
        let mut frame = self.rows[row].frame.clone();
        for _ in 0..self.random.usize(1..=6) {
            self.change(&mut frame);
        }
        frame
    }

    fn change(&mut self, frame: &mut Vec<u8>) {
        // Headers decide; the payload hardly ever.
        let headers = frame.len().clamp(1, 80);
        let place = self.random.usize(..headers);
        let interesting = [0, 1, 4, 5, 6, 8, 17, 0x08, 0x45, 0x60, 0x7f, 0x80, 0x81, 0x86, 0xdd, 0xfe, 0xff];
        match self.random.u8(..8) {
            0 | 1 => self.set(frame, place, |random, _| random.u8(..)),
            2 => self.set(frame, place, |random, byte| byte ^ 1 << random.u8(..8)),
            3 => self.set(frame, place, |random, _| interesting[random.usize(..interesting.len())]),
            4 => frame.truncate(self.random.usize(..=frame.len())),
            5 => frame.extend(std::iter::repeat_n(self.random.u8(..), self.random.usize(..40))),
            6 => frame.insert(place.min(frame.len()), self.random.u8(..)),
            _ => self.splice(frame, place),
        }
    }

    fn set(&mut self, frame: &mut [u8], place: usize, change: impl Fn(&mut Rng, u8) -> u8) {
        if let Some(byte) = frame.get_mut(place) {
            *byte = change(&mut self.random, *byte);
        }
    }

    /// The head of this frame and the tail of another row's.
    fn splice(&mut self, frame: &mut Vec<u8>, place: usize) {
        let other = self.random.usize(..self.rows.len());
        frame.truncate(place);
        frame.extend(self.rows[other].frame.get(place..).unwrap_or_default());
    }
}
