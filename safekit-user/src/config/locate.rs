//! Where in the text a value stands. serde carries no positions, but an error that is raised while a value is being
//! read gets the position of that value: so this walks to the value and raises one.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::error::Position;

/// One step from a value to one inside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    Key(&'a str),
    Item(usize),
}

pub(super) fn position_of(error: &serde_yaml::Error) -> Option<Position> {
    error.location().map(|at| Position { line: at.line(), column: at.column() })
}

/// The position of the value at `path`, or of the nearest value around it that exists.
pub(super) fn locate(text: &str, path: &[Step<'_>]) -> Option<Position> {
    (0..=path.len()).rev().find_map(|length| {
        let error =
            Probe { path: &path[..length] }.deserialize(serde_yaml::Deserializer::from_str(text)).err()?;
        error.to_string().contains(HERE).then(|| position_of(&error)).flatten()
    })
}

/// The first key that its mapping has twice. serde refuses duplicates in structs only, and points at the struct.
pub(super) fn duplicate_key(text: &str) -> Option<(String, Position)> {
    let error = NoDuplicates.deserialize(serde_yaml::Deserializer::from_str(text)).err()?;
    let message = error.to_string();
    // The engine may put the path in front.
    let key = message.split_once(TWICE)?.1.split('`').next()?.to_owned();
    Some((key, position_of(&error)?))
}

const HERE: &str = "\u{1}here";
const TWICE: &str = "\u{1}twice `";

struct Probe<'a> {
    path: &'a [Step<'a>],
}

impl<'de> DeserializeSeed<'de> for Probe<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// All scalars end a walk: at its goal with the error that carries the position, elsewhere in silence.
macro_rules! scalars {
    ($($visit:ident: $type:ty),*) => {
        $(fn $visit<E: serde::de::Error>(self, _: $type) -> Result<(), E> { self.scalar() })*
    };
}

impl<'de> Visitor<'de> for Probe<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    scalars!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_i128: i128, visit_u128: u128,
             visit_f64: f64, visit_str: &str);

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        self.scalar()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Some((first, rest)) = self.path.split_first() else { return Err(A::Error::custom(HERE)) };
        let mut index = 0;
        loop {
            let more = if *first == Step::Item(index) {
                items.next_element_seed(Probe { path: rest })?.is_some()
            } else {
                items.next_element::<IgnoredAny>()?.is_some()
            };
            if !more {
                return Ok(());
            }
            index += 1;
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let Some((first, rest)) = self.path.split_first() else { return Err(A::Error::custom(HERE)) };
        while let Some(key) = entries.next_key::<serde_yaml::Value>()? {
            if matches!((first, key.as_str()), (Step::Key(wanted), Some(key)) if *wanted == key) {
                entries.next_value_seed(Probe { path: rest })?;
            } else {
                entries.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

impl Probe<'_> {
    fn scalar<E: serde::de::Error>(&self) -> Result<(), E> {
        if self.path.is_empty() { Err(E::custom(HERE)) } else { Ok(()) }
    }
}

struct NoDuplicates;

impl<'de> DeserializeSeed<'de> for NoDuplicates {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for NoDuplicates {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    scalars!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_i128: i128, visit_u128: u128,
             visit_f64: f64, visit_str: &str);

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(Self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while entries.next_key_seed(Key { seen: &mut seen })?.is_some() {
            entries.next_value_seed(Self)?;
        }
        Ok(())
    }
}

impl NoDuplicates {
    #[expect(clippy::unused_self, reason = "the counterpart of Probe::scalar")]
    fn scalar<E>(&self) -> Result<(), E> {
        Ok(())
    }
}

/// Reads a key as text: other kinds of keys are refused later, by their types.
struct Key<'a> {
    seen: &'a mut HashSet<String>,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<(), E> {
        if self.seen.insert(key.to_owned()) { Ok(()) } else { Err(E::custom(format!("{TWICE}{key}`"))) }
    }
}
