//! The text format of Prometheus, version 0.0.4: families of samples, and nothing about what they mean.

use std::fmt::{Display, Write as _};

use super::histogram::{BOUNDS, Reading};

/// What kind of metric a family is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric while it is written. Its heading stands before its first sample; without samples nothing is written.
pub(super) struct Family<'a> {
    out: &'a mut String,
    name: &'static str,
    kind: Kind,
    help: &'static str,
    begun: bool,
}

impl<'a> Family<'a> {
    /// The metric `name`. A help text is one line without backslashes.
    pub(super) fn new(out: &'a mut String, kind: Kind, name: &'static str, help: &'static str) -> Self {
        Self { out, name, kind, help, begun: false }
    }

    /// Writes one sample.
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.begin();
        self.line("", labels, value);
    }

    /// Writes the samples of one histogram.
    pub(super) fn histogram(&mut self, labels: &[(&str, &str)], reading: &Reading) {
        self.begin();
        for ((_, bound), count) in BOUNDS.iter().zip(reading.buckets) {
            self.bucket(labels, bound, count);
        }
        self.bucket(labels, "+Inf", reading.count);
        self.line("_sum", labels, reading.sum.as_secs_f64());
        self.line("_count", labels, reading.count);
    }

    fn bucket(&mut self, labels: &[(&str, &str)], bound: &str, count: u64) {
        let mut with_bound = labels.to_vec();
        with_bound.push(("le", bound));
        self.line("_bucket", &with_bound, count);
    }

    fn begin(&mut self) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        let (name, help, kind) = (self.name, self.help, self.kind.as_str());
        // Writing to a String cannot fail; here and below.
        let _ = write!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        self.out.push_str(self.name);
        self.out.push_str(suffix);
        let mut before = '{';
        for (name, value) in labels {
            self.out.push(before);
            self.out.push_str(name);
            self.out.push_str("=\"");
            escape(self.out, value);
            self.out.push('"');
            before = ',';
        }
        if !labels.is_empty() {
            self.out.push('}');
        }
        let _ = writeln!(self.out, " {value}");
    }
}

/// A label's value: `\`, `"` and line feeds are escaped.
fn escape(out: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::cell::Shards;
    use super::super::histogram::Histogram;
    use super::*;

    #[test]
    fn a_family_is_its_heading_and_its_samples() {
        let mut out = String::new();
        let mut family = Family::new(&mut out, Kind::Counter, "cats_total", "Cats seen.");
        family.sample(&[("colour", "red")], 1);
        family.sample(&[("colour", "a\"b\\c\nd"), ("size", "")], 2);
        assert_eq!(
            out,
            "# HELP cats_total Cats seen.\n# TYPE cats_total counter\ncats_total{colour=\"red\"} 1\n\
             cats_total{colour=\"a\\\"b\\\\c\\nd\",size=\"\"} 2\n"
        );
    }

    #[test]
    fn a_family_without_samples_is_not_written() {
        let mut out = String::new();
        let _ = Family::new(&mut out, Kind::Gauge, "cats", "Cats present.");
        assert_eq!(out, "");
    }

    #[test]
    fn a_histogram_ends_in_infinity_sum_and_count() {
        let histogram = Histogram::new(Shards::for_threads(1));
        histogram.observe(Duration::from_micros(1500));
        let mut out = String::new();
        Family::new(&mut out, Kind::Histogram, "nap_seconds", "Naps.").histogram(&[], &histogram.read());
        assert!(out.contains("nap_seconds_bucket{le=\"0.001\"} 0\nnap_seconds_bucket{le=\"0.0025\"} 1\n"));
        assert!(out.ends_with("nap_seconds_bucket{le=\"+Inf\"} 1\nnap_seconds_sum 0.0015\nnap_seconds_count 1\n"));
    }
}
