//! The secret that the nodes of a cluster share.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// All other keys are derived from it; it is never used itself.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKey([u8; 32]);

impl ClusterKey {
    /// Hexadecimal digits of one.
    pub const DIGITS: usize = 64;

    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub fn from_digits(digits: &[u8]) -> Option<Self> {
        let digits: &[u8; Self::DIGITS] = digits.try_into().ok()?;
        let digit = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
        let mut key = [0; 32];
        for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self(key))
    }

    pub fn digits(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Says that there is one, and not which: keys must not reach logs.
impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(…)")
    }
}

/// Only between nodes, inside of their connection.
impl Serialize for ClusterKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.digits())
    }
}

impl<'de> Deserialize<'de> for ClusterKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let digits = String::deserialize(deserializer)?;
        Self::from_digits(digits.as_bytes()).ok_or_else(|| serde::de::Error::custom("no cluster key"))
    }
}

/// What a node goes by while the cluster key changes, and before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRing {
    pub sending: ClusterKey,
    /// Accepted as well.
    pub other: Option<OtherKey>,
    /// The key that the cluster began with: which client meets which node does not change with the key.
    pub seed: ClusterKey,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OtherKey {
    /// What everybody will send with.
    Next(ClusterKey),
    /// What some may still send with.
    Previous(ClusterKey),
}

impl KeyRing {
    pub fn of(key: ClusterKey) -> Self {
        Self { sending: key.clone(), other: None, seed: key }
    }

    /// The one to send with first.
    pub fn accepted(&self) -> Vec<ClusterKey> {
        let other = match &self.other {
            Some(OtherKey::Next(key) | OtherKey::Previous(key)) => Some(key.clone()),
            None => None,
        };
        std::iter::once(self.sending.clone()).chain(other).collect()
    }

    /// What the ring is after a step; `None` where the step does not follow on what is there.
    pub fn after(&self, step: &KeyStep) -> Option<Self> {
        let Self { sending, other, seed } = self.clone();
        let (sending, other) = match (step, other) {
            (KeyStep::Probe, other) => (sending, other),
            // Said again after an interruption.
            (KeyStep::Accept { key, .. }, other) if *key == sending => (sending, other),
            (KeyStep::Accept { key, .. }, Some(OtherKey::Next(next))) if *key == next => {
                (sending, Some(OtherKey::Next(next)))
            }
            // Whoever begins a change has settled on its own key; so nobody sends with what was left over here.
            (KeyStep::Accept { key, from }, _) if *from == sending => {
                (sending, Some(OtherKey::Next(key.clone())))
            }
            (KeyStep::Accept { .. }, _) => return None,
            (KeyStep::Send, Some(OtherKey::Next(next))) => (next, Some(OtherKey::Previous(sending))),
            (KeyStep::Send, other) => (sending, other),
            (KeyStep::Settle, _) => (sending, None),
        };
        Some(Self { sending, other, seed })
    }
}

/// One step of a change of the key, on every node before the next one begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyStep {
    /// Is this node there, and could it write its key file?
    Probe,
    Accept {
        key: ClusterKey,
        /// What the node that began the change sends with.
        from: ClusterKey,
    },
    /// With what has been accepted.
    Send,
    /// Forget all but the key to send with.
    Settle,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_the_key_has_three_steps_and_keeps_the_seed() {
        let (old, new) = (ClusterKey::new([1; 32]), ClusterKey::new([2; 32]));
        let ring = KeyRing::of(old.clone());
        let accept =
            |key: &ClusterKey, from: &ClusterKey| KeyStep::Accept { key: key.clone(), from: from.clone() };
        let accepting = ring.after(&accept(&new, &old)).expect("nothing is under way");
        assert_eq!(accepting.accepted(), [old.clone(), new.clone()]);
        assert_eq!(accepting.after(&accept(&new, &old)).as_ref(), Some(&accepting), "said again");
        assert_eq!(
            accepting.after(&accept(&new, &new)).as_ref(),
            Some(&accepting),
            "taken up by one that is further"
        );
        let third = ClusterKey::new([3; 32]);
        assert_eq!(accepting.after(&accept(&third, &third)), None, "another cluster's");
        assert_eq!(
            accepting.after(&accept(&third, &old)).map(|it| it.accepted()),
            Some(vec![old.clone(), third.clone()])
        );
        let sending = accepting.after(&KeyStep::Send).expect("it follows");
        assert_eq!(sending.accepted(), [new.clone(), old.clone()]);
        assert_eq!(sending.after(&KeyStep::Send).as_ref(), Some(&sending), "said again");
        assert_eq!(sending.after(&accept(&new, &old)).as_ref(), Some(&sending), "taken up again");
        assert_eq!(sending.after(&accept(&third, &old)), None, "the others send with another key");
        let settled = sending.after(&KeyStep::Settle).expect("it follows");
        assert_eq!(settled, KeyRing { sending: new, other: None, seed: old });
        assert_eq!(accepting.after(&KeyStep::Settle), Some(ring), "given up");
    }

    #[test]
    fn digits_are_read_as_they_were_written_and_never_shown() {
        let key = ClusterKey::new(std::array::from_fn(|index| index as u8 * 7));
        assert_eq!(ClusterKey::from_digits(key.digits().as_bytes()), Some(key.clone()));
        assert_eq!(format!("{:?}", Some(key)), "Some(ClusterKey(…))");
    }
}
