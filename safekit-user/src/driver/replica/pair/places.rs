//! Objects go by their numbers between the nodes. Before an operation names one that the other node has not met over this
//! connection, it is told where the object is, as that is at this place in the stream.

use std::collections::HashSet;

use super::desk::Connection;
use crate::driver::replica::watch::{Atlas, Place};
use crate::types::replica::ObjectId;
use crate::wire::replica::{Frame, Operation};

/// More, and the other node is told to forget them all: neither side keeps more than this.
const PLACED_MAX: usize = 200_000;
/// Directories below each other: more, and something is wrong.
const DEPTH_MAX: usize = 65_536;

/// It has no name that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unplaced(pub(super) u64);

impl Connection {
    pub(super) fn bound_places(&mut self) {
        if self.placed.len() > PLACED_MAX {
            self.link.queue(&Frame::ForgetPlaces, &[]);
            self.placed = HashSet::from([ObjectId::ROOT]);
        }
    }

    pub(super) fn place_for(&mut self, operation: &Operation, atlas: &dyn Atlas) -> Result<(), Unplaced> {
        let at = |parent: &ObjectId, name: &[u8]| Some(Place { parent: *parent, name: name.to_vec() });
        match operation {
            Operation::Write { object, .. }
            | Operation::Truncate { object, .. }
            | Operation::Allocate { object, .. }
            | Operation::Meta { object, .. }
            | Operation::SetAttribute { object, .. }
            | Operation::RemoveAttribute { object, .. } => self.place(*object, None, atlas),
            Operation::Copy { from, to, .. } => {
                self.place(*from, None, atlas)?;
                self.place(*to, None, atlas)
            }
            Operation::Create { parent, entry, .. } => {
                self.place(*parent, None, atlas)?;
                self.placed.insert(entry.object);
                Ok(())
            }
            Operation::Link { object, parent, .. } => {
                self.place(*object, None, atlas)?;
                self.place(*parent, None, atlas)
            }
            Operation::Remove { parent, name, object, directory } => {
                self.place(*object, at(parent, name), atlas)?;
                if *directory {
                    self.placed.remove(object);
                }
                self.place(*parent, None, atlas)
            }
            Operation::Rename { object, parent, name, new_parent, new_name, replaced, .. } => {
                self.place(*new_parent, None, atlas)?;
                self.place(*object, at(parent, name), atlas)?;
                if let Some(replaced) = replaced {
                    self.place(*replaced, at(new_parent, new_name), atlas)?;
                }
                self.place(*parent, None, atlas)
            }
        }
    }

    /// `known`: where it is, if that is known better than by the atlas.
    fn place(&mut self, object: ObjectId, known: Option<Place>, atlas: &dyn Atlas) -> Result<(), Unplaced> {
        let mut way = Vec::new();
        let (mut at, mut known) = (object, known);
        while !self.placed.contains(&at) {
            if way.len() >= DEPTH_MAX {
                return Err(Unplaced(object.0));
            }
            let place = known.take().or_else(|| atlas.place(at)).ok_or(Unplaced(at.0))?;
            let parent = place.parent;
            way.push((at, place));
            at = parent;
        }
        for (object, Place { parent, name }) in way.into_iter().rev() {
            self.link.queue(&Frame::Place { object, parent, name }, &[]);
            self.placed.insert(object);
        }
        Ok(())
    }
}
