//! What happened to copies between two of their reports, as sentences for the journal.

use super::{role_word, sync_word};
use crate::types::mirror::{CopyInfo, ResyncInfo, SyncState, VerificationInfo};

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    Info,
    Warning,
    Error,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    pub weight: Weight,
    /// `role`, `sync`, `resync`, `verify`, `stall`, `process`.
    pub kind: &'static str,
    pub text: String,
    pub cause: Option<String>,
}

/// A copy that has not been there before has no news.
pub fn news(before: &[CopyInfo], after: &[CopyInfo]) -> Vec<News> {
    let pair = |copy: &'_ CopyInfo| {
        let old = before.iter().find(|old| old.directory == copy.directory)?;
        Some(of_copy(old, copy))
    };
    after.iter().filter_map(pair).flatten().collect()
}

fn of_copy(old: &CopyInfo, new: &CopyInfo) -> Vec<News> {
    let directory = &new.directory;
    let because = (!new.why.is_empty()).then(|| new.why.clone());
    let mut all = Vec::new();
    if old.role != new.role {
        let text = format!("{directory}: {} -> {}", role_word(old.role), role_word(new.role));
        all.push(News { weight: Weight::Info, kind: "role", text, cause: because.clone() });
    }
    if old.sync != new.sync {
        let text = format!("{directory}: {} -> {}", sync_word(old.sync), sync_word(new.sync));
        let weight = if new.sync == SyncState::OutOfDate { Weight::Warning } else { Weight::Info };
        all.push(News { weight, kind: "sync", text, cause: because });
    }
    if new.stalls > old.stalls {
        let text = format!("{directory}: the other node is given up, because it did not answer");
        all.push(News { weight: Weight::Warning, kind: "stall", text, cause: None });
    }
    if let Some(refusal) = new.cannot_lead.as_ref().filter(|_| old.cannot_lead.is_none()) {
        let text = format!("{directory} cannot serve here");
        all.push(News { weight: Weight::Warning, kind: "role", text, cause: Some(refusal.clone()) });
    }
    all.extend(of_resync(directory, old.resync.as_ref(), new.resync.as_ref()));
    all.extend(of_verification(directory, old.verification.as_ref(), new.verification.as_ref()));
    all
}

/// One that began and ended between two reports is told as both.
fn of_resync(directory: &str, old: Option<&ResyncInfo>, new: Option<&ResyncInfo>) -> Vec<News> {
    let Some(new) = new else { return Vec::new() };
    let is_new = old.is_none_or(|old| old.since != new.since);
    let was_under_way = is_new || old.is_some_and(|old| old.ended.is_none());
    let tell = |text| News { weight: Weight::Info, kind: "resync", text, cause: None };
    let mut all = Vec::new();
    if is_new {
        let what = if new.everything { "everything is compared" } else { "what is recorded is copied" };
        all.push(tell(format!("{directory}: a resynchronisation begins, {what}")));
    }
    if let Some(ended) = new.ended.filter(|_| was_under_way) {
        let took = ended.since(new.since).as_secs_f64();
        all.push(tell(format!(
            "{directory}: the resynchronisation has ended after {took:.1} s, {} objects, {} bytes",
            new.files, new.bytes
        )));
    }
    all
}

fn of_verification(
    directory: &str,
    old: Option<&VerificationInfo>,
    new: Option<&VerificationInfo>,
) -> Vec<News> {
    let Some(new) = new else { return Vec::new() };
    let is_new = old.is_none_or(|old| old.since != new.since);
    let was_under_way = is_new || old.is_some_and(|old| old.ended.is_none());
    let tell = |weight, text| News { weight, kind: "verify", text, cause: None };
    let mut all = Vec::new();
    if is_new {
        all.push(tell(Weight::Info, format!("{directory}: a verification begins")));
    }
    if new.ended.is_some() && was_under_way {
        let (weight, how) = match (new.complete, new.differing) {
            (true, 0) => (Weight::Info, "both copies are equal".to_owned()),
            (true, differing) => (Weight::Error, format!("{differing} objects differed")),
            (false, differing) => {
                (Weight::Warning, format!("not to its end; {differing} objects differed so far"))
            }
        };
        let text = format!("{directory}: the verification has ended, {} objects: {how}", new.objects);
        all.push(tell(weight, text));
    }
    all
}
