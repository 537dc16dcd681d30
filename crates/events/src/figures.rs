//! Numbers as people read them.

/// Bytes for people: `1.50 GB`.
pub fn bytes(bytes: f64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{value:.0} B")
    } else {
        format!("{value:.2} {}", units[unit])
    }
}

/// A time for people: `1 h 02 min`, `3 min 05 s`, `4.2 s`.
pub fn seconds(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        3600.. => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
        60.. => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{seconds:.1} s"),
    }
}

/// A count for people: `134.5 M`.
pub fn count(count: f64) -> String {
    match count {
        c if c >= 1e9 => format!("{:.2} B", c / 1e9),
        c if c >= 1e6 => format!("{:.1} M", c / 1e6),
        c if c >= 1e4 => format!("{:.1} k", c / 1e3),
        c => format!("{c:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            (bytes(999.0), bytes(1_500_000_000.0)),
            ("999 B".into(), "1.50 GB".into())
        );
        assert_eq!(
            (seconds(4.2), seconds(185.0), seconds(3725.0)),
            ("4.2 s".into(), "3 min 05 s".into(), "1 h 02 min".into())
        );
        assert_eq!((count(134_515_008.0), count(12.0)), ("134.5 M".into(), "12".into()));
    }
}
