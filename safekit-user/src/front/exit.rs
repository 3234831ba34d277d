//! Exit codes: documented constants that scripts rely on.

use std::process::ExitCode;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: it did what it was asked.
    Done,
    /// 1: it was understood and could not be done.
    Failed,
    /// 2: it was not understood.
    Usage,
    /// 3: it was done, and something needs attention.
    Degraded,
    /// 4: the daemon could not be reached.
    Unreachable,
}

impl Exit {
    pub const ALL: [Self; 5] = [Self::Done, Self::Failed, Self::Usage, Self::Degraded, Self::Unreachable];

    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Degraded => 3,
            Self::Unreachable => 4,
        }
    }

    /// For the manual.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Done => "It did what it was asked.",
            Self::Failed => "It was understood and could not be done.",
            Self::Usage => "The command line was not understood.",
            Self::Degraded => "It was done, and something needs attention.",
            Self::Unreachable => "The daemon, or the other node, could not be reached.",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
