//! Exit codes of the command line. They are a promise to scripts.

use std::process::{ExitCode, Termination};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The command did what it says.
    Done = 0,
    /// It could not; the last line on stderr is the next step.
    Failed = 1,
    /// The command line itself is wrong.
    Usage = 2,
    /// It works, and something needs attention.
    Degraded = 3,
    /// The daemon, or the node, does not answer.
    Unreachable = 4,
}

impl Exit {
    pub const fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        self.into()
    }
}
