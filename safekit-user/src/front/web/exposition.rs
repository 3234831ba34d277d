//! Figures as text: OpenMetrics 1.0, or the older Prometheus text form 0.0.4.
//!
//! ```text
//!               OpenMetrics                          text form
//! counter x     TYPE x counter, sample x_total       TYPE x_total counter, sample x_total
//! info x        TYPE x info, sample x_info 1         TYPE x_info gauge, sample x_info 1
//! unit          UNIT x_seconds seconds               -
//! ```

use std::fmt::{Display, Write as _};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    OpenMetrics,
    Text,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Gauge,
    Counter,
    /// Its labels are the message; the value is 1.
    Info,
}

/// Names and values of the labels of one sample.
pub(super) type Labels<'l> = &'l [(&'l str, &'l str)];

pub(super) struct Page {
    form: Form,
    text: String,
}

/// Samples of one name. A family without samples leaves no trace.
pub(super) struct Family<'p> {
    page: &'p mut Page,
    kind: Kind,
    name: &'static str,
    help: &'static str,
    begun: bool,
}

/// The last words of the names of families that are measured in something.
const UNITS: [&str; 3] = ["seconds", "ratio", "bytes"];

impl Form {
    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

impl Kind {
    const fn word(self, form: Form) -> &'static str {
        match (self, form) {
            (Self::Gauge, _) | (Self::Info, Form::Text) => "gauge",
            (Self::Counter, _) => "counter",
            (Self::Info, Form::OpenMetrics) => "info",
        }
    }

    const fn suffix(self) -> &'static str {
        match self {
            Self::Gauge => "",
            Self::Counter => "_total",
            Self::Info => "_info",
        }
    }
}

impl Page {
    pub(super) const fn new(form: Form) -> Self {
        Self { form, text: String::new() }
    }

    /// `name` without the program's prefix and without the suffix of its kind.
    pub(super) const fn family(&mut self, kind: Kind, name: &'static str, help: &'static str) -> Family<'_> {
        Family { page: self, kind, name, help, begun: false }
    }

    pub(super) fn finish(mut self) -> String {
        // A comment to readers of the text form.
        self.text.push_str("# EOF\n");
        self.text
    }
}

impl Family<'_> {
    pub(super) fn sample(&mut self, labels: Labels<'_>, value: impl Display) -> &mut Self {
        self.begin();
        let text = &mut self.page.text;
        let _infallible = write!(text, "safekit_{}{}", self.name, self.kind.suffix());
        for (index, (label, value)) in labels.iter().enumerate() {
            text.push(if index == 0 { '{' } else { ',' });
            let _infallible = write!(text, "{label}=\"");
            escape(text, value);
            text.push('"');
        }
        if !labels.is_empty() {
            text.push('}');
        }
        let _infallible = writeln!(text, " {value}");
        self
    }

    /// One sample for each of `all`: 1 for the one that is, 0 for the others.
    pub(super) fn one_of(&mut self, labels: Labels<'_>, of: &str, all: &[&str], is: &str) -> &mut Self {
        for word in all {
            let labels: Vec<_> = labels.iter().copied().chain([(of, *word)]).collect();
            self.sample(&labels, u8::from(*word == is));
        }
        self
    }

    fn begin(&mut self) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        let Page { form, text } = &mut *self.page;
        let suffix = if *form == Form::Text { self.kind.suffix() } else { "" };
        let name = self.name;
        let _infallible = writeln!(text, "# TYPE safekit_{name}{suffix} {}", self.kind.word(*form));
        let unit = UNITS.iter().find(|unit| name.ends_with(&format!("_{unit}")));
        if let (Form::OpenMetrics, Some(unit)) = (*form, unit) {
            let _infallible = writeln!(text, "# UNIT safekit_{name} {unit}");
        }
        let _infallible = writeln!(text, "# HELP safekit_{name}{suffix} {}", self.help);
    }
}

fn escape(text: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(form: Form) -> String {
        let mut page = Page::new(form);
        page.family(Kind::Counter, "runs", "Ends.").sample(&[("of", "a\"\\\nb")], 7);
        page.family(Kind::Info, "build", "What runs.").sample(&[("version", "1")], 1);
        page.family(Kind::Gauge, "age_seconds", "How old.").sample(&[], 0.25);
        page.family(Kind::Gauge, "nothing", "Nobody.");
        page.family(Kind::Gauge, "state", "One.").one_of(&[("m", "x")], "is", &["up", "down"], "down");
        page.finish()
    }

    #[test]
    fn kinds_units_and_quotes_are_as_each_form_has_them() {
        assert_eq!(
            page(Form::OpenMetrics),
            "# TYPE safekit_runs counter\n# HELP safekit_runs Ends.\nsafekit_runs_total{of=\"a\\\"\\\\\\nb\"} 7\n\
             # TYPE safekit_build info\n# HELP safekit_build What runs.\nsafekit_build_info{version=\"1\"} 1\n\
             # TYPE safekit_age_seconds gauge\n# UNIT safekit_age_seconds seconds\n\
             # HELP safekit_age_seconds How old.\nsafekit_age_seconds 0.25\n\
             # TYPE safekit_state gauge\n# HELP safekit_state One.\n\
             safekit_state{m=\"x\",is=\"up\"} 0\nsafekit_state{m=\"x\",is=\"down\"} 1\n# EOF\n"
        );
        let text = page(Form::Text);
        assert!(
            text.contains("# TYPE safekit_runs_total counter\n# HELP safekit_runs_total Ends.\n"),
            "{text}"
        );
        assert!(text.contains("# TYPE safekit_build_info gauge\n"), "{text}");
        assert!(!text.contains("# UNIT"), "{text}");
    }
}
