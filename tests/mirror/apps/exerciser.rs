//! fsx: one file is written, read, mapped, cut, punched and copied within itself at random, and has to have what the
//! program remembers.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use safekit_tests::netns::SCRATCH;

use super::programs::{from_crate, is_long, run_well};
use crate::stage::{Options, story};

const OPERATIONS: usize = 20_000;
const OPERATIONS_LONG: usize = 100_000;
/// A machine that does much else as well.
const OPERATION_MAX: Duration = Duration::from_millis(20);

/// Everything that it knows, and mostly what changes something.
const CONFIG: &str = "\
flen = 1048576
[opsize]
min = 0
max = 65536
[weights]
close_open = 1.0
invalidate = 1.0
mapread = 2.0
mapwrite = 2.0
read = 2.0
write = 4.0
truncate = 1.0
fsync = 0.2
fdatasync = 0.2
posix_fallocate = 1.0
punch_hole = 1.0
sendfile = 1.0
posix_fadvise = 0.5
copy_file_range = 1.0
";

#[test]
fn a_file_has_what_an_exerciser_did_to_it_on_both_nodes() -> Result<()> {
    let operations = if is_long() { OPERATIONS_LONG } else { OPERATIONS };
    let within = OPERATION_MAX * operations as u32;
    let options = Options { within: within + Duration::from_secs(60), ..Options::default() };
    story("fsx", options, |stage| {
        stage.mirrored()?;
        let config = stage.mount(0).with_file_name("fsx.toml");
        fs::write(&config, CONFIG)?;
        // Another one each time, and it is in what is printed on a failure.
        let seed = std::process::id().to_string();
        let mut fsx = Command::new(from_crate("fsx"));
        fsx.arg("-f").arg(config).args(["-N", &operations.to_string(), "-S", &seed, "-P", SCRATCH]);
        run_well(fsx.arg(stage.mount(0).join("file")), SCRATCH.as_ref(), within)?;
        stage.until_same()?;
        stage.stop(1)?;
        stage.stop(0)?;
        stage.until_same()
    })
}
