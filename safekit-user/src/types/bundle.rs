//! A support bundle: what is in it, and what there is to say about how it came there.

/// One file of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Inside the archive: `system/addresses.json`.
    pub path: String,
    pub text: String,
    /// Why it is not whole, or not there at all; none where all is well.
    pub note: Option<String>,
}

impl Item {
    pub fn whole(path: impl Into<String>, text: impl Into<String>) -> Self {
        Self { path: path.into(), text: text.into(), note: None }
    }

    pub fn lacking(path: impl Into<String>, why: impl Into<String>) -> Self {
        Self { path: path.into(), text: String::new(), note: Some(why.into()) }
    }
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub items: usize,
    /// Those with a note.
    pub lacking: Vec<(String, String)>,
    /// Of the archive.
    pub bytes: u64,
}
