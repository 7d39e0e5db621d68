//! Measuring: repeated runs, their medians, and the table that shows them.

use std::fmt;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long each run of one subject took.
#[derive(Debug, Clone)]
pub struct Series {
    /// What ran.
    pub subject: &'static str,
    times: Vec<Duration>,
}

/// One question, and the subjects that were measured for it, the baseline last.
#[derive(Debug)]
pub struct Table {
    /// What was measured.
    pub question: &'static str,
    /// The measurements.
    pub series: Vec<Series>,
}

/// A subject: its name and one run of it.
pub type Subject<'a> = (&'static str, Box<dyn FnMut() -> Duration + 'a>);

/// Runs every subject once per round, so that a slow moment of the machine meets all of
/// them; each round begins with another subject, and every other one goes backwards: who comes
/// after a large one finds none of its own in the processor's caches.
///
/// Some rounds before the first that counts warm caches up.
#[must_use]
pub fn interleaved(question: &'static str, rounds: usize, mut subjects: Vec<Subject<'_>>) -> Table {
    const WARM_UP: usize = 3;
    let mut series: Vec<_> = subjects
        .iter()
        .map(|(subject, _)| Series {
            subject,
            times: Vec::new(),
        })
        .collect();
    let count = subjects.len();
    for round in 0..WARM_UP + rounds {
        for turn in 0..count {
            let turn = if round % 2 == 0 {
                turn
            } else {
                count - 1 - turn
            };
            let index = (round / 2 + turn) % count;
            let time = (subjects[index].1)();
            if round >= WARM_UP {
                series[index].times.push(time);
            }
        }
    }
    Table { question, series }
}

/// How long `work` takes.
pub fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

// === impl Series ===

impl Series {
    /// The time that half of the runs did not exceed.
    #[must_use]
    pub fn median(&self) -> Duration {
        self.percentile(50)
    }

    /// The time that 95 of 100 runs did not exceed.
    #[must_use]
    pub fn p95(&self) -> Duration {
        self.percentile(95)
    }

    /// The shortest time.
    #[must_use]
    pub fn least(&self) -> Duration {
        self.times.iter().min().copied().unwrap_or_default()
    }

    /// The longest time.
    #[must_use]
    pub fn most(&self) -> Duration {
        self.times.iter().max().copied().unwrap_or_default()
    }

    fn percentile(&self, percent: usize) -> Duration {
        let mut times = self.times.clone();
        times.sort();
        let index = (times.len() * percent).div_ceil(100).saturating_sub(1);
        times.get(index).copied().unwrap_or_default()
    }
}

// === impl Table ===

impl Table {
    /// The table as JSON: milliseconds.
    #[must_use]
    pub fn json(&self) -> Value {
        let row = |series: &Series| {
            json!({
                "subject": series.subject,
                "median_ms": millis(series.median()),
                "p95_ms": millis(series.p95()),
                "min_ms": millis(series.least()),
                "max_ms": millis(series.most()),
                "runs": series.times.len(),
            })
        };
        json!({ "question": self.question, "series": self.series.iter().map(row).collect::<Vec<_>>() })
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let baseline = self.series.last().map(Series::median).unwrap_or_default();
        let runs = self.series.first().map_or(0, |series| series.times.len());
        writeln!(f, "{} ({runs} runs each, interleaved)", self.question)?;
        writeln!(
            f,
            "  {:<28}{:>12}{:>12}{:>12}{:>12}{:>10}",
            "", "min ms", "median ms", "p95 ms", "max ms", "ratio"
        )?;
        for series in &self.series {
            let median = series.median();
            let ratio = median.as_secs_f64() / baseline.as_secs_f64();
            let (median, p95) = (millis(median), millis(series.p95()));
            let (least, most) = (millis(series.least()), millis(series.most()));
            writeln!(
                f,
                "  {:<28}{least:>12.2}{median:>12.2}{p95:>12.2}{most:>12.2}{ratio:>10.3}",
                series.subject
            )?;
        }
        Ok(())
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_runs_that_happened() {
        let times = (1..=20).map(Duration::from_millis).collect();
        let series = Series {
            subject: "x",
            times,
        };
        assert_eq!(series.median(), Duration::from_millis(10));
        assert_eq!(series.p95(), Duration::from_millis(19));
        assert_eq!(series.least(), Duration::from_millis(1));
        assert_eq!(series.most(), Duration::from_millis(20));
    }

    #[test]
    fn every_subject_runs_once_a_round() {
        let subject = || Box::new(|| Duration::from_millis(1));
        let table = interleaved("?", 5, vec![("a", subject()), ("b", subject())]);
        assert!(table.series.iter().all(|series| series.times.len() == 5));
    }
}
