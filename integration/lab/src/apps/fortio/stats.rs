//! Counters and histograms, computed and written as fortio does. Pure.

use std::fmt::Write as _;

/// Bucket limits in multiples of the resolution.
const LIMITS: [f64; 49] = [
    0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 14., 16., 18., 20., 25., 30., 35., 40.,
    45., 50., 60., 70., 80., 90., 100., 120., 140., 160., 180., 200., 250., 300., 350., 400., 450.,
    500., 600., 700., 800., 900., 1000., 2000., 3000., 4000., 5000., 10000.,
];

/// Percentiles that a run reports.
const PERCENTILES: [f64; 5] = [50., 75., 90., 99., 99.9];

/// Values and what is asked about them.
#[derive(Debug, Clone, Default)]
pub(super) struct Stats {
    values: Vec<f64>,
}

/// One line of a histogram.
#[derive(Debug, PartialEq)]
struct Bucket {
    from: f64,
    to: f64,
    count: usize,
}

impl Stats {
    pub fn record(&mut self, value: f64) {
        self.values.push(value);
    }

    pub fn merge(&mut self, other: &Self) {
        self.values.extend_from_slice(&other.values);
    }

    pub fn count(&self) -> usize {
        self.values.len()
    }

    pub fn sum(&self) -> f64 {
        self.values.iter().sum()
    }

    pub fn mean(&self) -> f64 {
        self.sum() / self.count() as f64
    }

    pub fn min(&self) -> f64 {
        self.values.iter().copied().fold(f64::INFINITY, f64::min)
    }

    pub fn max(&self) -> f64 {
        self.values
            .iter()
            .copied()
            .fold(f64::NEG_INFINITY, f64::max)
    }

    fn deviation(&self) -> f64 {
        let mean = self.mean();
        let squares: f64 = self.values.iter().map(|v| (v - mean).powi(2)).sum();
        (squares / self.count() as f64).sqrt()
    }

    /// `NAME : count 20 avg 0.0013 +/- 0.0005 min 0.0009 max 0.0033 sum 0.027`
    pub fn counter_line(&self, name: &str) -> String {
        if self.values.is_empty() {
            return format!("{name} : no data\n");
        }
        format!(
            "{name} : count {} avg {} +/- {} min {} max {} sum {}\n",
            self.count(),
            significant(self.mean(), 8),
            significant(self.deviation(), 4),
            significant(self.min(), 9),
            significant(self.max(), 9),
            significant(self.sum(), 9),
        )
    }

    /// The histogram's lines and its percentiles, in buckets of 1 ms and up.
    pub fn histogram(&self) -> String {
        let mut text = String::from("# range, mid point, percentile, count\n");
        if self.values.is_empty() {
            return String::new();
        }
        let buckets = self.buckets();
        let mut below = 0;
        for (i, bucket) in buckets.iter().enumerate() {
            below += bucket.count;
            let sign = if i == 0 { ">=" } else { ">" };
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "{sign} {} <= {} , {} , {:.2}, {}",
                significant(bucket.from, 6),
                significant(bucket.to, 6),
                significant((bucket.from + bucket.to) / 2.0, 6),
                100.0 * below as f64 / self.count() as f64,
                bucket.count
            );
        }
        for percentile in PERCENTILES {
            let value = significant(self.percentile(percentile), 6);
            let _ = writeln!(text, "# target {percentile}% {value}");
        }
        text
    }

    /// Buckets that hold something, cut to the smallest and largest value.
    fn buckets(&self) -> Vec<Bucket> {
        const RESOLUTION: f64 = 0.001;
        let (min, max) = (self.min(), self.max());
        let limits = LIMITS.iter().map(|limit| limit * RESOLUTION);
        let uppers = limits.clone().skip(1).chain([f64::INFINITY]);
        limits
            .zip(uppers)
            .map(|(from, to)| Bucket {
                from: from.max(min),
                to: to.min(max),
                count: self
                    .values
                    .iter()
                    .filter(|v| (from == 0.0 || **v > from) && **v <= to)
                    .count(),
            })
            .filter(|bucket| bucket.count > 0)
            .collect()
    }

    /// Interpolated within its bucket.
    fn percentile(&self, percentile: f64) -> f64 {
        let wanted = self.count() as f64 * percentile / 100.0;
        let mut below = 0.0;
        for bucket in self.buckets() {
            let count = bucket.count as f64;
            if below + count >= wanted {
                return bucket.from + (wanted - below) / count * (bucket.to - bucket.from);
            }
            below += count;
        }
        self.max()
    }
}

/// Go's `%.Ng`: so many significant digits, no trailing zeros.
pub(super) fn significant(value: f64, digits: i32) -> String {
    if value == 0.0 || !value.is_finite() {
        return format!("{value}");
    }
    let magnitude = value.abs().log10().floor() as i32;
    let decimals = usize::try_from((digits - 1 - magnitude).max(0)).unwrap_or(0);
    let text = format!("{value:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four below a millisecond, fourteen in the next, one and one above.
    fn sample() -> Stats {
        let mut stats = Stats::default();
        for value in [0.0009, 0.00095, 0.00096, 0.00097] {
            stats.record(value);
        }
        (0..14).for_each(|_| stats.record(0.0015));
        stats.record(0.0025);
        stats.record(0.0033);
        stats
    }

    #[test]
    fn percentiles_are_interpolated_in_their_bucket() {
        let stats = sample();
        assert_eq!(significant(stats.percentile(50.0), 6), "0.00142857");
        assert_eq!(significant(stats.percentile(75.0), 6), "0.00178571");
        assert_eq!(significant(stats.percentile(90.0), 6), "0.002");
        assert_eq!(significant(stats.percentile(99.0), 6), "0.00324");
    }

    #[test]
    fn the_histogram_reads_like_fortios() {
        let text = sample().histogram();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[..5],
            [
                "# range, mid point, percentile, count",
                ">= 0.0009 <= 0.001 , 0.00095 , 20.00, 4",
                "> 0.001 <= 0.002 , 0.0015 , 90.00, 14",
                "> 0.002 <= 0.003 , 0.0025 , 95.00, 1",
                "> 0.003 <= 0.0033 , 0.00315 , 100.00, 1",
            ]
        );
        assert_eq!(lines[5], "# target 50% 0.00142857");
    }

    #[test]
    fn one_value_is_its_own_histogram() {
        let mut stats = Stats::default();
        stats.record(0.5);
        assert!(
            stats
                .histogram()
                .contains(">= 0.5 <= 0.5 , 0.5 , 100.00, 1")
        );
        assert_eq!(
            stats.counter_line("x"),
            "x : count 1 avg 0.5 +/- 0 min 0.5 max 0.5 sum 0.5\n"
        );
    }

    #[test]
    fn values_beyond_the_last_limit_are_counted() {
        let mut stats = Stats::default();
        stats.record(99.0);
        assert_eq!(stats.buckets().len(), 1);
        assert_eq!(Stats::default().histogram(), "");
    }
}
