//! A network namespace with a name: a machine, as far as the network goes.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where iproute2 keeps names.
pub const NAMES_DIR: &str = "/run/netns";

/// A process that got SIGKILL is gone after milliseconds; one in an uninterruptible wait is not worth more.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the command `ip` is missing; install the package iproute2")]
    NoIproute2,
    #[error("cannot make the network namespace {name}: {message}")]
    Add { name: String, message: String },
    #[error("cannot open the network namespace {name}")]
    Open {
        name: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot enter the network namespace {name}")]
    Enter {
        name: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot set {key} in the network namespace {name}")]
    Sysctl {
        name: String,
        key: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot remove the network namespace {name}")]
    Remove {
        name: String,
        #[source]
        source: io::Error,
    },
}

#[derive(Debug)]
pub struct Namespace {
    name: String,
    handle: File,
}

impl Namespace {
    /// Makes it. The name outlives this value: [`Namespace::remove`] takes it away.
    pub fn add(name: &str) -> Result<Self, Error> {
        let output = Command::new("ip").args(["netns", "add", name]).output().map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                return Error::NoIproute2;
            }
            Error::Add { name: name.to_owned(), message: error.to_string() }
        })?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Error::Add { name: name.to_owned(), message });
        }
        Self::open(name)
    }

    pub fn open(name: &str) -> Result<Self, Error> {
        let handle = File::open(Path::new(NAMES_DIR).join(name))
            .map_err(|source| Error::Open { name: name.to_owned(), source })?;
        Ok(Self { name: name.to_owned(), handle })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn handle(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    /// A handle that lives on its own, for a thread that moves in.
    pub fn door(&self) -> Result<Door, Error> {
        let handle =
            self.handle.try_clone().map_err(|source| Error::Open { name: self.name.clone(), source })?;
        Ok(Door { name: self.name.clone(), handle })
    }

    /// Does something inside, on a thread of its own, and comes back with the answer.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        let door = self.door()?;
        std::thread::scope(|scope| {
            let visitor = scope.spawn(move || {
                door.enter()?;
                Ok(work())
            });
            visitor.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Sets `/proc/sys/KEY`, as seen from inside.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<(), Error> {
        let written = self.inside(|| std::fs::write(Path::new("/proc/sys").join(key), value))?;
        written.map_err(|source| Error::Sysctl { name: self.name.clone(), key: key.to_owned(), source })
    }

    /// Keeps neighbour discovery and address detection of IPv6 off the demo's wires.
    pub fn without_ipv6(&self) -> Result<(), Error> {
        for scope in ["all", "default"] {
            match self.sysctl(&format!("net/ipv6/conf/{scope}/disable_ipv6"), "1") {
                // A kernel without IPv6 is quiet already.
                Err(Error::Sysctl { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// IPv6 whose addresses are usable at once, and to which no router adds any.
    pub fn with_steady_ipv6(&self) -> Result<(), Error> {
        for scope in ["all", "default"] {
            for key in ["accept_dad", "accept_ra", "router_solicitations"] {
                self.sysctl(&format!("net/ipv6/conf/{scope}/{key}"), "0")?;
            }
        }
        Ok(())
    }

    /// Processes that live inside, whoever started them.
    pub fn processes(&self) -> Vec<Pid> {
        let Ok(own) = self.handle.metadata() else { return Vec::new() };
        let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let inside = pids.filter(|pid| {
            let namespace = std::fs::metadata(format!("/proc/{pid}/ns/net"));
            namespace.is_ok_and(|it| (it.dev(), it.ino()) == (own.dev(), own.ino()))
        });
        inside.filter_map(Pid::from_raw).collect()
    }

    /// Kills everything inside at once, as a power cut does, and waits until it is gone.
    pub fn kill_all(&self) {
        let deadline = crate::driver::clock::now() + KILL_TIMEOUT;
        loop {
            let processes = self.processes();
            if processes.is_empty() || crate::driver::clock::now() > deadline {
                return;
            }
            for pid in processes {
                // It may have died since it was listed.
                let _gone = rustix::process::kill_process(pid, Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Takes the name away. The kernel destroys the namespace when nobody is inside any more.
    pub fn remove(self) -> Result<(), Error> {
        let path: PathBuf = Path::new(NAMES_DIR).join(&self.name);
        let unmounted = match rustix::mount::unmount(&path, UnmountFlags::DETACH) {
            // Its maker died between the name and the mount.
            Err(rustix::io::Errno::INVAL) => Ok(()),
            result => result,
        };
        unmounted
            .map_err(io::Error::from)
            .and_then(|()| std::fs::remove_file(&path))
            .map_err(|source| Error::Remove { name: self.name, source })
    }
}

/// The way in, for a thread.
#[derive(Debug)]
pub struct Door {
    name: String,
    handle: File,
}

impl Door {
    /// Moves the calling thread in, for good: every socket that it makes from now on belongs there.
    pub fn enter(self) -> Result<(), Error> {
        move_into_link_name_space(self.handle.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|error| Error::Enter { name: self.name, source: error.into() })
    }
}
