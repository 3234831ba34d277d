//! Tier datapath: the filter in this kernel, run by hand (BPF_PROG_TEST_RUN), against one table of packets; the host
//! function has to agree on every one. Needs root: a test that cannot load the filter fails, and says so.

mod attach;
mod corpus;
mod directed;
mod guard;
mod known;
mod mutation;
mod notes;
mod oracle;
mod sockets;
mod table;
mod takeover;
