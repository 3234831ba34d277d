//! What the kernel runs, and what crosses the kernel boundary.
//!
//! `no_std` and free of any kernel: the same functions decide in the XDP program, in unit tests, under mutation
//! and in the table that compares both.
#![no_std]
