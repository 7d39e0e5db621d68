//! Kubernetes quantities ("250m", "64Mi", "1e3") as whole numbers.

/// A quantity in billionths, the finest unit Kubernetes knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Quantity(i128);

/// One unit, in billionths.
const ONE: i128 = 1_000_000_000;

// === impl Quantity ===

impl Quantity {
    /// Reads a quantity; `None` if `text` is not one, or is negative.
    ///
    /// # References
    ///
    /// [Quantity](https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/)
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix('+').unwrap_or(text);
        let end = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (number, suffix) = text.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return None;
        }
        let (multiply, divide) = scale(suffix)?;
        let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
        let places = u32::try_from(fraction.len()).ok()?;
        let value = digits.checked_mul(ONE)?.checked_mul(multiply)?;
        let divide = divide.checked_mul(10_i128.checked_pow(places)?)?;
        Some(Self(ceiling(value, divide)))
    }

    /// Whole units, rounded up as Kubernetes rounds.
    pub(crate) fn units(self) -> i64 {
        i64::try_from(ceiling(self.0, ONE)).unwrap_or(i64::MAX)
    }

    /// Thousandths, rounded up.
    pub(crate) fn thousandths(self) -> i64 {
        i64::try_from(ceiling(self.0, ONE / 1000)).unwrap_or(i64::MAX)
    }
}

/// What a suffix multiplies and divides by.
fn scale(suffix: &str) -> Option<(i128, i128)> {
    if let Some(exponent) = suffix.strip_prefix(['e', 'E']).filter(|e| !e.is_empty()) {
        let exponent: i32 = exponent.parse().ok()?;
        let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
        return Some(if exponent < 0 { (1, power) } else { (power, 1) });
    }
    Some(match suffix {
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "" => (1, 1),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => return None,
    })
}

fn ceiling(value: i128, divide: i128) -> i128 {
    value / divide + i128::from(value % divide > 0)
}

#[cfg(test)]
mod tests {
    use super::Quantity;

    #[test]
    fn quantities_read_as_kubernetes_reads_them() {
        for (text, units, thousandths) in [
            ("0", 0, 0),
            ("1", 1, 1000),
            ("250m", 1, 250),
            ("0.1", 1, 100),
            (".5", 1, 500),
            ("1.", 1, 1000),
            ("1500m", 2, 1500),
            ("100u", 1, 1),
            ("64Mi", 67_108_864, 67_108_864_000),
            ("1.5Gi", 1_610_612_736, 1_610_612_736_000),
            ("1e3", 1000, 1_000_000),
            ("1E", 1_000_000_000_000_000_000, i64::MAX),
            ("12E-1", 2, 1200),
        ] {
            let quantity = Quantity::parse(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(quantity.units(), units, "{text}");
            assert_eq!(quantity.thousandths(), thousandths, "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in [
            "", "-1", "m", "1 Mi", "1mi", "1.2.3", "1e", "Mi", "1KiB", "e3",
        ] {
            // "1e" is no exponent and no suffix.
            assert_eq!(Quantity::parse(text), None, "{text}");
        }
    }
}
