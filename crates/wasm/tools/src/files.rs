//! `cat` and `ls`.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::path::Path;
use std::time::UNIX_EPOCH;

use crate::{about, place, unknown, Outcome};

/// `cat [FILE...]`
pub(crate) fn cat(args: &[String]) -> Outcome {
    let mut out = io::stdout().lock();
    let mut all = true;
    let stdin = ["-".to_owned()];
    let args = if args.is_empty() { &stdin[..] } else { args };
    for arg in args {
        let copied = match arg.as_str() {
            "-" => io::copy(&mut io::stdin().lock(), &mut out),
            "-u" => Ok(0),
            option if option.starts_with('-') => return unknown(option),
            path => File::open(place(path)).and_then(|mut file| io::copy(&mut file, &mut out)),
        };
        if let Err(error) = copied {
            eprintln!("cat: {arg}: {error}");
            all = false;
        }
    }
    out.flush().map_err(about("stdout"))?;
    Ok(all)
}

/// How `ls` lists.
#[derive(Default)]
struct Listing {
    /// `-a`, `-A`: hidden names too.
    all: bool,
    /// `-l`
    long: bool,
    /// `-d`: directories as files.
    itself: bool,
    /// `-R`
    recursive: bool,
}

/// `ls [-aAdlR1] [PATH...]`
pub(crate) fn ls(args: &[String]) -> Outcome {
    let mut listing = Listing::default();
    let mut paths = Vec::new();
    for arg in args {
        match arg.strip_prefix('-') {
            Some(options) if !options.is_empty() => {
                for option in options.chars() {
                    match option {
                        'a' | 'A' => listing.all = true,
                        'l' => listing.long = true,
                        'd' => listing.itself = true,
                        'R' => listing.recursive = true,
                        '1' | 'h' => {}
                        other => return unknown(&format!("-{other}")),
                    }
                }
            }
            _ => paths.push(arg.as_str()),
        }
    }
    if paths.is_empty() {
        paths.push(".");
    }
    let mut out = io::stdout().lock();
    let mut all = true;
    let titled = paths.len() > 1 || listing.recursive;
    for path in paths {
        if let Err(error) = listing.path(&mut out, path, titled) {
            eprintln!("ls: {path}: {error}");
            all = false;
        }
    }
    out.flush().map_err(about("stdout"))?;
    Ok(all)
}

impl Listing {
    fn path(&self, out: &mut impl Write, path: &str, titled: bool) -> io::Result<()> {
        let at = place(path);
        // What a link leads to, unless it leads nowhere.
        let found = fs::metadata(&at).or_else(|_| fs::symlink_metadata(&at))?;
        if self.itself || !found.is_dir() {
            return self.line(out, &at, path);
        }
        self.directory(out, &at, path, titled)
    }

    fn directory(&self, out: &mut impl Write, at: &Path, path: &str, titled: bool) -> io::Result<()> {
        if titled {
            writeln!(out, "{path}:")?;
        }
        let mut names = names(at)?;
        names.retain(|name| self.all || !name.starts_with('.'));
        for name in &names {
            self.line(out, &at.join(name), name)?;
        }
        if self.recursive {
            for name in names {
                let below = at.join(&name);
                if fs::symlink_metadata(&below)?.is_dir() {
                    writeln!(out)?;
                    let path = format!("{}/{name}", path.trim_end_matches('/'));
                    self.directory(out, &below, &path, true)?;
                }
            }
        }
        Ok(())
    }

    fn line(&self, out: &mut impl Write, at: &Path, name: &str) -> io::Result<()> {
        if !self.long {
            return writeln!(out, "{name}");
        }
        let found = fs::symlink_metadata(at)?;
        let to = match fs::read_link(at) {
            Ok(to) if found.is_symlink() => format!(" -> {}", to.display()),
            _ => String::new(),
        };
        let (kind, size, time) = (kind(&found), found.len(), time(&found));
        writeln!(out, "{kind} {size:>10} {time} {name}{to}")
    }
}

/// The names in a directory, in their order.
pub(crate) fn names(at: &Path) -> io::Result<Vec<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(at)? {
        names.insert(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(names.into_iter().collect())
}

fn kind(found: &Metadata) -> char {
    if found.is_dir() {
        'd'
    } else if found.is_symlink() {
        'l'
    } else if found.is_file() {
        '-'
    } else {
        // A device, a socket, a pipe: WASI does not tell them apart for everyone.
        '?'
    }
}

/// `2026-11-26 19:10`, in UTC.
fn time(found: &Metadata) -> String {
    let modified = found.modified().ok();
    let since = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let seconds = since.map_or(0, |since| since.as_secs());
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute) = (seconds / 3_600 % 24, seconds / 60 % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}")
}

/// The Gregorian date of a day since 1970.
fn date(day: u64) -> (u64, u64, u64) {
    // Counted from 1 March of the year 0, so that the leap day is a year's last.
    let day = day + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}
