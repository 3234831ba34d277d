//! The XDP entry.
#![no_std]
#![no_main]
