//! Tier datapath: the filter in this kernel, run by hand (BPF_PROG_TEST_RUN), against one table of packets; the host
//! function has to agree on every one. Needs root: a test that cannot load the filter fails, and says so.

#[path = "datapath/attach.rs"]
mod attach;
#[path = "datapath/mutation.rs"]
mod mutation;
#[path = "datapath/oracle.rs"]
mod oracle;
#[path = "datapath/sockets.rs"]
mod sockets;
#[path = "datapath/table.rs"]
mod table;
