//! `linux.personality`: which machine the kernel says it is.

use crate::{Error, document::Document};
use serde::Deserialize;
use serde_json::Value;

/// An execution domain, as `personality(2)` takes it. The specification has no others, and no flags:
/// `fields` refuses those.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Personality {
    /// The machine that it is.
    Linux,
    /// One of 32 bits: `uname -m` says `i686` on x86-64.
    Linux32,
}

#[derive(Debug, Deserialize)]
struct Written {
    domain: String,
}

// === impl Personality ===

impl Personality {
    /// `PER_LINUX` or `PER_LINUX32` of `linux/personality.h`.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::Linux => 0,
            Self::Linux32 => 8,
        }
    }

    /// The specification's name of it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Linux => "LINUX",
            Self::Linux32 => "LINUX32",
        }
    }

    /// Takes `personality` out of `linux`.
    pub(crate) fn lift(
        document: Document<'_>,
        linux: Option<&mut Value>,
    ) -> Result<Option<Self>, Error> {
        let Some(written) = document.lift::<Written>("linux", "personality", linux)? else {
            return Ok(None);
        };
        let domains = [Self::Linux, Self::Linux32];
        match domains
            .iter()
            .find(|domain| domain.name() == written.domain)
        {
            Some(domain) => Ok(Some(*domain)),
            None => {
                let why = "is neither LINUX nor LINUX32";
                Err(document.value("linux.personality.domain", &written.domain, why))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lift(personality: Value) -> Result<Option<Personality>, String> {
        let mut linux = json!({ "personality": personality });
        let lifted = Personality::lift(Document { name: "d" }, Some(&mut linux));
        assert_eq!(linux, json!({}));
        lifted.map_err(|error| error.to_string())
    }

    #[test]
    fn a_personality_is_one_of_two_domains() {
        for (domain, number) in [("LINUX", 0), ("LINUX32", 8)] {
            let read = lift(json!({ "domain": domain })).unwrap().unwrap();
            assert_eq!((read.number(), read.name()), (number, domain));
        }
        // What Go's encoders write for nothing.
        assert_eq!(lift(json!({ "domain": "", "flags": [] })), Ok(None));
        assert_eq!(lift(json!({})), Ok(None));
        let why = lift(json!({ "domain": "PER_SVR4" })).unwrap_err();
        assert_eq!(
            why,
            "d: linux.personality.domain: PER_SVR4: is neither LINUX nor LINUX32"
        );
        let why = lift(json!("LINUX32")).unwrap_err();
        assert!(why.starts_with("d: linux.personality"), "{why}");
    }
}
