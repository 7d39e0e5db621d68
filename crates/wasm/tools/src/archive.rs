//! `tar`, as `kubectl cp` calls it: makes an archive on stdout, extracts or lists one from stdin.
//!
//! Modes are 0644 and 0755, owners 0, whatever they were: WASI does not tell them and cannot set them.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::block::{self, Entry, Kind};
use crate::{about, place, unknown, Outcome};

/// What is asked for.
#[derive(Default)]
struct Wish {
    what: Option<char>,
    file: Option<String>,
    directory: Option<String>,
    verbose: bool,
    paths: Vec<String>,
}

/// `tar -c|-x|-t [-v] [-f FILE] [-C DIRECTORY] [PATH...]`
pub(crate) fn tar(args: &[String]) -> Outcome {
    let mut wish = Wish::default();
    let mut words = args.iter().map(String::as_str);
    let mut first = true;
    while let Some(word) = words.next() {
        let letters = match word.strip_prefix('-') {
            Some(letters) if !letters.is_empty() && !letters.starts_with('-') => letters,
            // The old way, without a dash.
            None if first => word,
            _ => {
                wish.long(word, &mut words)?;
                first = false;
                continue;
            }
        };
        first = false;
        for letter in letters.chars() {
            let mut value = || words.next().map(str::to_owned).ok_or_else(|| format!("-{letter}: of what?"));
            match letter {
                'c' | 'x' | 't' => wish.what = Some(letter),
                'f' => wish.file = Some(value()?),
                'C' => wish.directory = Some(value()?),
                'v' => wish.verbose = true,
                // Times are those of the extraction, permissions and owners nobody's.
                'm' | 'p' | 'o' => {}
                other => return unknown(&format!("-{other}")),
            }
        }
    }
    let file = wish.file.as_deref().filter(|file| *file != "-");
    match wish.what {
        Some('c') => match file {
            Some(file) => wish.create(File::create(place(file)).map_err(about(file))?),
            None => wish.create(io::stdout().lock()),
        },
        Some(what) => match file {
            Some(file) => wish.read(File::open(place(file)).map_err(about(file))?, what),
            None => wish.read(io::stdin().lock(), what),
        },
        None => Err("-c, -x or -t?".to_owned()),
    }
}

impl Wish {
    fn long<'a>(&mut self, word: &str, words: &mut impl Iterator<Item = &'a str>) -> Result<(), String> {
        let (option, value) = match word.split_once('=') {
            Some((option, value)) => (option, Some(value.to_owned())),
            None => (word, None),
        };
        let mut value = || {
            let next = value.clone().or_else(|| words.next().map(str::to_owned));
            next.ok_or_else(|| format!("{option}: of what?"))
        };
        match option {
            "--create" => self.what = Some('c'),
            "--extract" | "--get" => self.what = Some('x'),
            "--list" => self.what = Some('t'),
            "--file" => self.file = Some(value()?),
            "--directory" => self.directory = Some(value()?),
            "--verbose" => self.verbose = true,
            "--no-same-permissions" | "--no-same-owner" | "--touch" => {}
            _ if option.starts_with("--") && option != "--" => return unknown(option),
            "--" => {}
            _ => self.paths.push(word.to_owned()),
        }
        Ok(())
    }

    /// Where a path of the archive is.
    fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let directory = place(self.directory.as_deref().unwrap_or("."));
        directory.join(path)
    }

    fn create(&self, mut to: impl Write) -> Outcome {
        if self.paths.is_empty() {
            return Err("an archive of what?".to_owned());
        }
        let mut all = true;
        for path in &self.paths {
            all &= self.add(&mut to, Path::new(path))?;
        }
        block::end(&mut to).and_then(|()| to.flush()).map_err(about("archive"))?;
        Ok(all)
    }

    /// Adds a path and what is below it. What cannot be read is told and left out; the archive goes on.
    fn add(&self, to: &mut impl Write, path: &Path) -> Outcome {
        let left_out = |error: io::Error| {
            eprintln!("tar: {}: {error}", path.display());
            Ok(false)
        };
        let at = self.at(path);
        let found = match fs::symlink_metadata(&at) {
            Ok(found) => found,
            Err(error) => return left_out(error),
        };
        let modified = found.modified().ok();
        let since = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let mut name = relative(path).to_string_lossy().into_owned();
        if name.is_empty() {
            name = ".".to_owned();
        }
        if self.verbose {
            eprintln!("{name}");
        }
        let mut entry = Entry {
            name,
            kind: Kind::File,
            size: 0,
            modified: since.map_or(0, |since| since.as_secs()),
            to: String::new(),
        };
        if found.is_symlink() {
            entry.kind = Kind::Symlink;
            match fs::read_link(&at) {
                Ok(leads) => entry.to = leads.to_string_lossy().into_owned(),
                Err(error) => return left_out(error),
            }
            entry.write(to).map_err(about("archive"))?;
            return Ok(true);
        }
        if found.is_dir() {
            entry.kind = Kind::Directory;
            entry.name.push('/');
            entry.write(to).map_err(about("archive"))?;
            let names = match crate::files::names(&at) {
                Ok(names) => names,
                Err(error) => return left_out(error),
            };
            let mut all = true;
            for name in names {
                all &= self.add(to, &path.join(name))?;
            }
            return Ok(all);
        }
        if !found.is_file() {
            return left_out(io::Error::other("is neither a file, a directory nor a link"));
        }
        let file = match File::open(&at) {
            Ok(file) => file,
            Err(error) => return left_out(error),
        };
        entry.size = found.len();
        // As many bytes as the header says, should it grow or shrink meanwhile.
        let mut bytes = file.chain(io::repeat(0)).take(entry.size);
        entry
            .write(to)
            .and_then(|()| io::copy(&mut bytes, to))
            .and_then(|_| block::pad(to, entry.size))
            .map_err(about("archive"))?;
        Ok(true)
    }

    fn read(&self, mut from: impl Read, what: char) -> Outcome {
        let mut out = io::stdout().lock();
        let mut all = true;
        while let Some(entry) = Entry::read(&mut from).map_err(about("archive"))? {
            let path = Path::new(&entry.name);
            let mut asked = self.paths.iter().map(|path| relative(Path::new(path)));
            let wanted = self.paths.is_empty() || asked.any(|asked| relative(path).starts_with(asked));
            if wanted && (what == 't' || self.verbose) {
                writeln!(out, "{}", entry.name).map_err(about("stdout"))?;
            }
            let mut bytes = (&mut from).take(entry.size);
            if wanted && what == 'x' {
                if let Err(error) = self.extract(&entry, path, &mut bytes) {
                    eprintln!("tar: {}: {error}", entry.name);
                    all = false;
                }
            }
            io::copy(&mut bytes, &mut io::sink()).map_err(about("archive"))?;
            if bytes.limit() > 0 {
                return Err("archive: is cut off".to_owned());
            }
            block::skip(&mut from, entry.size).map_err(about("archive"))?;
        }
        // Whoever writes the archive must not meet a closed pipe.
        io::copy(&mut from, &mut io::sink()).map_err(about("archive"))?;
        out.flush().map_err(about("stdout"))?;
        Ok(all)
    }

    fn extract(&self, entry: &Entry, path: &Path, bytes: &mut impl Read) -> io::Result<()> {
        if path.components().any(|part| part == Component::ParentDir) {
            return Err(io::Error::other("leads upwards"));
        }
        let at = self.at(relative(path));
        if entry.kind == Kind::Directory {
            return fs::create_dir_all(&at);
        }
        if let Some(above) = at.parent() {
            fs::create_dir_all(above)?;
        }
        if entry.kind != Kind::Other {
            replace(&at)?;
        }
        match entry.kind {
            Kind::File => io::copy(bytes, &mut File::create(&at)?).map(drop),
            Kind::Symlink => symlink(&entry.to, &at),
            Kind::Link => fs::hard_link(self.at(relative(Path::new(&entry.to))), &at),
            Kind::Directory | Kind::Other => {
                Err(io::Error::other("is neither a file, a directory nor a link"))
            }
        }
    }
}

/// Removes what a file is about to take the place of, so that nothing is written through a link.
fn replace(at: &Path) -> io::Result<()> {
    match fs::remove_file(at) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// A path as archives have it: from the root, without what means nothing.
fn relative(path: &Path) -> PathBuf {
    let parts = path.components();
    parts.filter(|part| !matches!(part, Component::RootDir | Component::CurDir)).collect()
}

/// The library's own is not stable.
fn symlink(to: &str, at: &Path) -> io::Result<()> {
    let at = relative(at);
    let root = wasi::filesystem::preopens::get_directories().into_iter().find(|(_, path)| path == "/");
    let (root, _) = root.ok_or(io::ErrorKind::NotFound)?;
    root.symlink_at(to, &at.to_string_lossy())
        .map_err(|code| io::Error::other(code.message()))
}
