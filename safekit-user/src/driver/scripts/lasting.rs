//! A program of ours that works for one module and outlives the daemon: in a session of its own, or as a unit of systemd.
//!
//! It is started as scripts are (see [`Way`]), and what it prints goes to a file that is bounded: the file of the run
//! before is kept beside it.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::{Child, Command};

use super::output::{cut_file, last_line};
use super::shell::close_the_daemons_files;
use super::{Way, units};

/// Of the end of a file, in which the last line is looked for.
const LAST_BYTES: u64 = 4096;

#[derive(Clone, Debug)]
pub struct Lasting {
    pub way: Way,
    pub module: String,
    /// One word, for the name of its unit.
    pub what: &'static str,
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    pub log: PathBuf,
}

#[derive(Debug)]
pub struct Begun {
    pub pid: u32,
    /// To be waited for, so that it does not stay in the kernel's table. None: somebody else waits for it.
    pub child: Option<Child>,
    /// It was started now, and not found.
    pub is_new: bool,
}

impl Lasting {
    /// The error is a sentence.
    pub async fn start(&self) -> Result<Begun, String> {
        let log = self.open_log().map_err(|error| format!("cannot write {}: {error}", self.log.display()))?;
        match self.way {
            Way::Children => self.as_child(&log),
            Way::Units => {
                drop(log);
                let pid = units::start_lasting(self).await?;
                Ok(Begun { pid, child: None, is_new: true })
            }
        }
    }

    fn as_child(&self, log: &File) -> Result<Begun, String> {
        let name = self.program.display();
        let output = || log.try_clone().map_err(|error| format!("cannot hand on its log: {error}"));
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).current_dir("/").stdin(Stdio::null());
        command.stdout(output()?).stderr(output()?);
        // SAFETY: between fork and exec only two system calls are made, without memory or locks of this process.
        unsafe {
            command.pre_exec(|| {
                rustix::process::setsid()?;
                close_the_daemons_files();
                Ok(())
            });
        }
        let child = command.spawn().map_err(|error| format!("cannot start {name}: {error}"))?;
        let pid = child.id().expect("it has not been waited for");
        Ok(Begun { pid, child: Some(child), is_new: true })
    }

    /// A new file for each start; that of the run before stays beside it.
    fn open_log(&self) -> io::Result<File> {
        if let Some(directory) = self.log.parent() {
            std::fs::create_dir_all(directory)?;
        }
        match std::fs::rename(&self.log, before(&self.log)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        OpenOptions::new().create(true).append(true).mode(0o600).open(&self.log)
    }
}

/// Cuts the file down when it has grown too large; whoever appends to it goes on.
pub fn tend(log: &Path) {
    cut_file(log);
}

/// The last line that says something, for causes.
pub fn last_words(log: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        use std::io::{Read as _, Seek as _, SeekFrom};
        let mut file = File::open(log)?;
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(LAST_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(LAST_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map(|bytes| last_line(&bytes)).unwrap_or_default()
}

fn before(log: &Path) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".1");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::scripts::tests::TempDir;

    fn of(dir: &Path, program: &str, arguments: &[&str]) -> Lasting {
        Lasting {
            way: Way::Children,
            module: "db".into(),
            what: "replica",
            program: program.into(),
            arguments: arguments.iter().map(OsString::from).collect(),
            log: dir.join("modules/db/replica.log"),
        }
    }

    #[tokio::test]
    async fn it_has_a_session_of_its_own_and_its_log_is_rotated() {
        let dir = TempDir::new("lasting");
        let script = "echo session $(ps -o sid= -p $$) process $$";
        let lasting = of(dir.path(), "/bin/sh", &["-c", script]);
        for _ in 0..2 {
            let mut begun = lasting.start().await.unwrap();
            begun.child.as_mut().unwrap().wait().await.unwrap();
            assert_eq!(last_words(&lasting.log), format!("session {0} process {0}", begun.pid));
        }
        assert!(before(&lasting.log).exists(), "that of the first run is kept");
    }

    #[tokio::test]
    async fn what_cannot_be_started_says_why() {
        let dir = TempDir::new("lasting-none");
        let error = of(dir.path(), "/no/such/program", &[]).start().await.unwrap_err();
        assert!(error.contains("cannot start /no/such/program: No such file"), "{error}");
    }
}
