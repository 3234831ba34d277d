//! What the fuzzer has kept (`cargo xtask fuzz`), replayed: on the host under everything that must hold, and in the
//! kernel, which has to agree.

use std::path::Path;

use anyhow::{Context as _, Result};
use safekit_ebpf::verdict::BucketState;
use safekit_tests::fixture::{Circumstances, Host, Loaded};
use safekit_tests::fuzz::{self, Input, Worlds};

/// The kernel runs nothing shorter by hand.
const ETHERNET: usize = 14;
/// Nor anything longer than what a page leaves to it.
const KERNEL_MAX: usize = 3_000;

/// By name.
fn corpus() -> Result<Vec<(String, Vec<u8>)>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/packet");
    let mut files = vec![];
    for entry in std::fs::read_dir(&folder).with_context(|| format!("no {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.push((name, std::fs::read(&path)?));
    }
    files.sort();
    anyhow::ensure!((50..=150).contains(&files.len()), "the corpus has {} files", files.len());
    Ok(files)
}

#[test]
fn everything_holds_for_the_corpus_and_its_seeds() -> Result<()> {
    let mut worlds = Worlds::new();
    let kept = corpus()?.into_iter().map(|(_, bytes)| bytes);
    let frames: usize = kept.chain(fuzz::seeds()).map(|bytes| worlds.check(&bytes).len()).sum();
    assert!(frames > 1_500, "only {frames} frames were judged");
    Ok(())
}

#[test]
fn the_loaded_filter_agrees_on_the_corpus() -> Result<()> {
    let (mut loaded, mut host) = (Loaded::new()?, Host::new());
    for (name, bytes) in corpus()? {
        let input = Input::read(&bytes);
        // First as another node's: then both have seen each flow, and no earlier file's notes count.
        for state in [BucketState::Foreign, input.state] {
            let circumstances = Circumstances { state, lease: true };
            loaded.set(circumstances)?;
            host.set(circumstances);
            for (lease, frame) in &input.frames {
                if !(ETHERNET..=KERNEL_MAX).contains(&frame.len()) {
                    continue;
                }
                loaded.set_lease(*lease)?;
                host.lease = *lease;
                assert_eq!(loaded.run(frame)?, host.run(frame), "{name}, {circumstances:?}: {frame:02x?}");
            }
        }
    }
    Ok(())
}

#[test]
fn an_input_reads_as_it_was_written_and_any_bytes_mean_something() {
    for bytes in fuzz::seeds() {
        assert_eq!(Input::read(&bytes).write(), bytes);
    }
    assert_eq!(Input::read(&[]).frames, []);
    let cut = Input::read(&[3, 0x80, 200, 7]);
    assert_eq!((cut.state, &cut.frames[..]), (BucketState::Gained, &[(false, &[7][..])][..]));
}
