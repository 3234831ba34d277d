//! What this copy has where the other node asks.

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::FileType;
use rustix::io::Errno;

use super::fault::Doing as _;
use super::known::{is_hidden, meet};
use super::{Applier, Fault};
use crate::driver::replica::verify;
use crate::types::replica::ObjectId;
use crate::wire::replica::Check;

impl Applier {
    /// Whether this copy has something else at this place of the stream, or no such object.
    pub fn check(&mut self, check: &Check) -> Result<bool, Fault> {
        let Some(found) = self.find_checked(check)? else { return Ok(true) };
        let stat = rustix::fs::fstat(&found).doing("look at an object")?;
        if stat.st_nlink == 0 || stat.st_dev != self.known.device() {
            return Ok(true);
        }
        let own = verify::part(check.object, found.as_fd(), &stat, &check.piece);
        Ok(own.doing("read what is compared")?.as_ref() != Some(&check.piece))
    }

    /// Under the name that it has on the other node. A directory is known from then on, for what is in it.
    fn find_checked(&mut self, check: &Check) -> Result<Option<OwnedFd>, Fault> {
        let doing = "hold an object";
        let Some((parent, name)) = &check.place else {
            let root = (check.object == ObjectId::ROOT).then(|| self.known.root());
            return root.map(|root| rustix::io::fcntl_dupfd_cloexec(root, 0).doing(doing)).transpose();
        };
        if is_hidden(*parent, name) {
            return Ok(None);
        }
        let Some(directory) = self.known.search(*parent)? else { return Ok(None) };
        let met = match meet(self.known.device(), directory.as_fd(), name) {
            Ok(met) if met.number == Some(check.object) => met,
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::XDEV | Errno::STALE) => return Ok(None),
            Err(source) => return Err(Fault::Io { doing: "look at a name", source }),
        };
        drop(directory);
        let is_directory = FileType::from_raw_mode(met.stat.st_mode) == FileType::Directory;
        if is_directory && !self.known.contains(check.object) {
            let held = rustix::io::fcntl_dupfd_cloexec(&met.fd, 0).doing(doing)?;
            self.known.remember(check.object, held);
        }
        Ok(Some(met.fd))
    }
}
