//! Which containerd runs `start`.
//!
//! 2.0 to 2.2 understand version 3, 1.7 refuses it, and they give a shim the same flags, the same
//! message and the same environment. What differs is the program: Go writes the modules that a program is
//! made of into it, and a module's second major version has a name of its own, which the compiler enforces.
//! The program is looked at through the parent process, not by its path: a package that was
//! upgraded has put another file there until its daemon is restarted.

use std::fs::File;
use std::io::{Read, Seek};

use nix::unistd;
use object::read::{Object as _, ObjectSection as _, ReadCache};

/// Where Go's linker puts what `go version -m` shows.
const BUILD_INFO: &str = ".go.buildinfo";

/// containerd 2 as a program (`path`), as a module (`mod`), or as a part of another program,
/// such as k3s (`dep`).
const MODULE: &[u8] = b"\tgithub.com/containerd/containerd/v2";

/// Whether the parent of this process is made from containerd 2. Whatever cannot be looked into is not.
pub(crate) fn is_containerd_2() -> bool {
    let program = format!("/proc/{}/exe", unistd::getppid());
    File::open(program).is_ok_and(is_made_from_2)
}

/// Reads a few pages of a program that has some ten thousand.
fn is_made_from_2(program: impl Read + Seek) -> bool {
    let program = ReadCache::new(program);
    let Ok(parsed) = object::File::parse(&program) else {
        return false;
    };
    let section = parsed.section_by_name(BUILD_INFO);
    section.is_some_and(|section| section.data().is_ok_and(names_2))
}

fn names_2(build_info: &[u8]) -> bool {
    let ends = |rest: &[u8]| matches!(rest.first(), Some(b'/' | b'\t'));
    let mut places = build_info.windows(MODULE.len()).enumerate();
    places.any(|(at, word)| word == MODULE && ends(&build_info[at + MODULE.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    /// As `go version -m` prints them.
    #[test]
    fn the_second_major_version_has_a_name_of_its_own() {
        for (info, is_2) in [
            // Debian's packages, which are built without modules.
            (
                "path\tgithub.com/containerd/containerd/v2/cmd/containerd\n",
                true,
            ),
            (
                "path\tgithub.com/containerd/containerd/cmd/containerd\n",
                false,
            ),
            // Releases.
            (
                "path\tx\nmod\tgithub.com/containerd/containerd/v2\tv2.2.7\t\n",
                true,
            ),
            (
                "path\tx\nmod\tgithub.com/containerd/containerd\tv1.7.34\t\n\
                 dep\tgithub.com/containerd/containerd/api\tv1.8.0\t\n",
                false,
            ),
            // Multi-call programs.
            (
                "path\tk3s\ndep\tgithub.com/containerd/containerd/v2\tv2.1.5\n",
                true,
            ),
            (
                "dep\tgithub.com/containerd/containerd/v20\tv20.0.0\n",
                false,
            ),
            ("dep\tgithub.com/containerd/containerd/v2", false),
            ("", false),
        ] {
            assert_eq!(names_2(info.as_bytes()), is_2, "{info}");
        }
    }

    #[test]
    fn what_is_no_program_of_gos_is_not_containerd() {
        assert!(!is_made_from_2(Cursor::new(b"#!/bin/sh\n".to_vec())));
        let own = File::open("/proc/self/exe").unwrap();
        assert!(!is_made_from_2(own));
        assert!(!is_containerd_2());
    }
}
