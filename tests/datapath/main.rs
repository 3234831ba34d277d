//! Tier datapath: one table of packets through the host function and through the loaded filter; both must agree.

mod attach;
mod mutate;
mod rows;
mod sockets;
mod table;
