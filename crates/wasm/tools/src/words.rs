//! `echo`, `env` and `sleep`.

use std::io::{self, Write as _};
use std::time::Duration;

use crate::{about, Outcome};

/// `echo [-n] [WORD...]`
pub(crate) fn echo(args: &[String]) -> Outcome {
    let (words, end) = match args.split_first() {
        Some((first, words)) if first == "-n" => (words, ""),
        _ => (args, "\n"),
    };
    let mut out = io::stdout().lock();
    write!(out, "{}{end}", words.join(" ")).map_err(about("stdout"))?;
    out.flush().map_err(about("stdout"))?;
    Ok(true)
}

/// `env`
pub(crate) fn env(args: &[String]) -> Outcome {
    if let Some(first) = args.first() {
        return Err(format!("{first}: WASI starts no programs; without arguments the environment is shown"));
    }
    let mut out = io::stdout().lock();
    for (name, value) in std::env::vars() {
        writeln!(out, "{name}={value}").map_err(about("stdout"))?;
    }
    Ok(true)
}

/// `sleep NUMBER[smhd]...`, or `sleep infinity`
pub(crate) fn sleep(args: &[String]) -> Outcome {
    if args.is_empty() {
        return Err("for how long?".to_owned());
    }
    let mut total = Duration::ZERO;
    for arg in args {
        total = total.saturating_add(duration(arg).ok_or_else(|| format!("{arg}: is no time to wait"))?);
    }
    std::thread::sleep(total);
    Ok(true)
}

fn duration(arg: &str) -> Option<Duration> {
    if arg == "infinity" || arg == "inf" {
        // A century: the clock of WASI counts nanoseconds in 64 bits.
        return Some(Duration::from_secs(100 * 365 * 86_400));
    }
    let number = arg.trim_end_matches(['s', 'm', 'h', 'd']);
    let unit = match arg.get(number.len()..)? {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    // Milliseconds will do, and spare the guest all that floating point needs.
    let part = part.get(..3).unwrap_or(part);
    let scale = 10_u64.pow(3 - u32::try_from(part.len()).ok()?);
    let part: u64 = if part.is_empty() { 0 } else { part.parse().ok()? };
    let millis = whole.checked_mul(1_000)?.checked_add(part * scale)?;
    Some(Duration::from_millis(millis.checked_mul(unit)?))
}
