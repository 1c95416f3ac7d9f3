//! Medians and quantiles.

/// The middle of the values; `None` without any.
#[must_use]
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.get(middle), values.len() % 2) {
        (Some(upper), 0) => Some(f64::midpoint(*upper, *values.get(middle - 1)?)),
        (Some(middle), _) => Some(*middle),
        (None, _) => None,
    }
}

/// The value below which `share` (0 to 1) of the sorted values lie.
#[must_use]
pub fn quantile(sorted: &[u64], share: f64) -> Option<u64> {
    let last = sorted.len().checked_sub(1)?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index between 0 and last"
    )]
    let index = (share.clamp(0.0, 1.0) * last as f64).round() as usize;
    sorted.get(index).copied()
}

/// Whether two measurements of the same thing differ by more than `share` of
/// the smaller one.
#[must_use]
pub fn moved(one: f64, other: f64, share: f64) -> bool {
    (one - other).abs() > share * one.min(other)
}

#[cfg(test)]
mod tests {
    use super::{median, moved, quantile};

    #[test]
    fn medians() {
        assert_eq!(median([]), None);
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn quantiles() {
        let sorted: Vec<u64> = (0..=100).collect();
        assert_eq!(quantile(&sorted, 0.5), Some(50));
        assert_eq!(quantile(&sorted, 0.99), Some(99));
        assert_eq!(quantile(&[7], 0.99), Some(7));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn movement_is_relative() {
        assert!(!moved(100.0, 109.0, 0.1));
        assert!(moved(112.0, 100.0, 0.1));
    }
}
