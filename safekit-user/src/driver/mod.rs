//! L3: the only code with sockets, files, clocks and processes. It carries out what the engines decide.

pub mod announce;
pub mod audit;
pub mod census;
pub mod check;
pub mod clock;
pub mod cluster;
pub mod connections;
pub mod daemon;
pub mod datapath;
pub mod doctor;
pub mod frames;
pub mod generations;
pub mod heartbeat;
pub mod inbox;
pub mod links;
pub mod multicast;
pub mod notes;
pub mod packet_socket;
pub mod probe;
pub mod realtime;
pub mod report;
pub mod roads;
pub mod runtime;
pub mod supervise;
pub mod vip;
pub mod wishes;
