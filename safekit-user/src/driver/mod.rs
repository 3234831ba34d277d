//! L3: the only code with sockets, files, clocks and processes. It carries out what the engines decide.

pub mod clock;
