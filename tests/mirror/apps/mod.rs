//! Real applications whose files are in a mirror: databases, a version control system, and programs that are made to
//! find what a file system gets wrong.
//!
//! `SAFEKIT_MIRROR_ROUNDS=20 cargo test -p safekit-tests --test mirror apps -- --nocapture` kills a database so many times,
//! and has the others do more as well.

mod exerciser;
mod git;
mod postgres;
mod programs;
mod server;
mod sqlite;
mod statements;
mod stressors;
