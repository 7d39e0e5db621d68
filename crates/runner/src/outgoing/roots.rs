//! Whose certificates a guest believes: the roots of its own image, found where a native program finds them.
//!
//! `SSL_CERT_FILE` and `SSL_CERT_DIR` in the container's environment, else the bundles of the distributions, else
//! those that are built in. The root folder is the container's, so is the user: what the guest cannot read
//! is not read for it.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use duet_wasm::Handoff;
use rustix::fs::{Mode, OFlags};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// The variable that names a file, and the one that names folders, with colons between them, as OpenSSL has them.
const FILE: &str = "SSL_CERT_FILE";
const FOLDERS: &str = "SSL_CERT_DIR";

/// Where distributions keep all roots in one file; those and the order that Go has (`crypto/x509/root_linux.go`).
const BUNDLES: [&str; 6] = [
    // Debian, Arch, Gentoo, and distroless images
    "/etc/ssl/certs/ca-certificates.crt",
    // Fedora
    "/etc/pki/tls/certs/ca-bundle.crt",
    // openSUSE
    "/etc/ssl/ca-bundle.pem",
    // OpenELEC
    "/etc/pki/tls/cacert.pem",
    // RHEL
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    // Alpine
    "/etc/ssl/cert.pem",
];

/// Where they keep one file for each.
const SINGLES: [&str; 2] = ["/etc/ssl/certs", "/etc/pki/tls/certs"];

/// The largest file that is read: 8 MiB. The bundle of Debian has 0.2.
const LIMIT: u64 = 8 << 20;

/// What the container's environment names.
static NAMED: OnceLock<Named> = OnceLock::new();

#[derive(Debug, Default)]
struct Named {
    file: Option<PathBuf>,
    folders: Vec<PathBuf>,
}

/// Whom to believe.
pub(super) struct Roots {
    pub(super) store: RootCertStore,
    /// Where they are from.
    pub(super) from: String,
}

/// Keeps what `handoff` says, for a component that may ask.
pub(crate) fn remember(handoff: &Handoff) {
    // Of a name that is given twice, the last value counts; one that is empty names nothing.
    let value = |name| {
        let values = handoff.variables().filter(|(known, _)| *known == name);
        let last = values.last().map(|(_, value)| value);
        last.filter(|value| !value.is_empty())
    };
    let place = |path: &str| Path::new(&handoff.cwd).join(path);
    NAMED.get_or_init(|| Named {
        file: value(FILE).map(place),
        folders: value(FOLDERS)
            .into_iter()
            .flat_map(|folders| folders.split(':'))
            // As OpenSSL has it: what is between two colons may be nothing.
            .filter(|folder| !folder.is_empty())
            .map(place)
            .collect(),
    });
}

/// Reads them. What is named and cannot be read is an error, and nothing else is believed instead.
pub(super) fn read() -> Result<Roots, String> {
    let named = NAMED.get_or_init(Named::default);
    if named.file.is_some() || !named.folders.is_empty() {
        return named.read();
    }
    let bundles = BUNDLES.map(Path::new).into_iter();
    let singles = SINGLES.map(Path::new).into_iter();
    let files = bundles.map(|path| (path, bundle(path)));
    let mut found = files.chain(singles.map(|path| (path, folder(path))));
    // What is not there, not for this user or empty is passed over, as everybody does.
    let found = found.find_map(|(path, store)| Some((path, store.ok()?)));
    Ok(found.map_or_else(built_in, |(path, store)| Roots {
        store,
        from: format!("those of {}", path.display()),
    }))
}

fn built_in() -> Roots {
    Roots {
        store: webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect(),
        from: "Mozilla's, built in: the container has none".to_owned(),
    }
}

// === impl Named ===

impl Named {
    fn read(&self) -> Result<Roots, String> {
        let mut roots = RootCertStore::empty();
        let file = self.file.iter().map(|path| (FILE, path, bundle(path)));
        let folders = self.folders.iter();
        let folders = folders.map(|path| (FOLDERS, path, folder(path)));
        let mut from = Vec::new();
        for (variable, path, store) in file.chain(folders) {
            let path = path.display();
            let store = store.map_err(|error| format!("{variable}: {path}: {error}"))?;
            roots.extend(store.roots);
            from.push(format!("those of {path}, by {variable}"));
        }
        Ok(Roots {
            store: roots,
            from: from.join(" and "),
        })
    }
}

/// All roots of a file, of which there must be one.
fn bundle(path: &Path) -> io::Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    add(&mut store, path)?;
    some(store)
}

/// All roots of the files of a folder, of which there must be one.
fn folder(path: &Path) -> io::Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    for entry in fs::read_dir(path)? {
        let entry = entry?.path();
        // OpenSSL finds its files by the hash of a subject: those are second names of files of the same folder.
        let second = fs::read_link(&entry).is_ok_and(|to| to.components().count() == 1);
        if !second {
            // What is no file, or of somebody else, is none of the roots.
            add(&mut store, &entry).ok();
        }
    }
    some(store)
}

fn some(store: RootCertStore) -> io::Result<RootCertStore> {
    if store.is_empty() {
        let why = "there is no certificate in PEM form";
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(store)
}

/// Adds the roots of a file; what in it is none is passed over.
fn add(store: &mut RootCertStore, path: &Path) -> io::Result<()> {
    // The guest may have put a FIFO there, which nobody should wait for.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("is not a file"));
    }
    if metadata.len() > LIMIT {
        let why = format!("is larger than {} MiB", LIMIT >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    let mut text = Vec::new();
    file.take(LIMIT).read_to_end(&mut text)?;
    let certificates = CertificateDer::pem_slice_iter(&text);
    store.add_parsable_certificates(certificates.filter_map(Result::ok));
    Ok(())
}
