//! L3: the only code with sockets, files, clocks and processes.

pub mod datapath;
