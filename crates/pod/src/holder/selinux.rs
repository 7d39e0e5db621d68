//! SELinux: the label of the pod's holder, and those of what its containers share.
//!
//! A pod may name parts of a label; what it leaves out is the policy's, as containerd completes
//! it for a pause container (`InitLabels` in `opencontainers/selinux`).

use std::fs;
use std::path::{Path, PathBuf};

use duet_linux::selinux;
use duet_spec::PodFiles;

use crate::error::Error;

/// Where its policies are configured.
const POLICIES: &str = "/etc/selinux";

/// A label, or parts of one; what is empty is left to the policy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SelinuxLabel {
    /// Of whom.
    pub user: String,
    /// As what.
    pub role: String,
    /// What a process may do is said of its type.
    pub r#type: String,
    /// Sensitivity and categories.
    pub level: String,
}

// === impl SelinuxLabel ===

impl SelinuxLabel {
    /// The whole label, if there is anything in it.
    pub(super) fn whole(&self) -> Result<Option<String>, Error> {
        if self.parts().iter().all(|part| part.is_empty()) {
            return Ok(None);
        }
        if !selinux::is_loaded() {
            return Err(self.refused("SELinux is not enabled in this kernel".to_owned()));
        }
        self.completed(Path::new(POLICIES)).map(Some)
    }

    fn parts(&self) -> [&str; 4] {
        [&self.user, &self.role, &self.r#type, &self.level]
    }

    /// Completed by the policy that is configured in `policies`.
    fn completed(&self, policies: &Path) -> Result<String, Error> {
        let parts = self.parts();
        if parts.iter().all(|part| !part.is_empty()) {
            return Ok(parts.join(":"));
        }
        let label = policys(policies).map_err(|why| self.refused(why))?;
        // A level has colons of its own.
        let mut theirs = label.splitn(4, ':');
        let part = |part: &str| {
            let their = theirs.next().unwrap_or_default();
            (if part.is_empty() { their } else { part }).to_owned()
        };
        Ok(parts.map(part).join(":"))
    }

    fn refused(&self, why: String) -> Error {
        Error::Wish {
            field: "PodSandboxConfig.linux.security_context.selinux_options",
            value: self.parts().join(":"),
            why,
        }
    }
}

/// Gives what the pod's containers share the label of the mounts of the one that comes, without its categories.
///
/// Around a pause container containerd gives it all of that label (`SelinuxRelabel`). There it makes one level for a pod;
/// for a pod of the shim's own it makes one for each container that asks for none, and all of them share these files.
pub(crate) fn relabel(files: &PodFiles, label: &str, id: &str) -> Result<(), Error> {
    // Where there is no SELinux, the label is refused with all others.
    if !selinux::is_loaded() {
        return Ok(());
    }
    let label = without_categories(label);
    let shared = [
        &files.hostname,
        &files.hosts,
        &files.resolv_conf,
        &files.shm,
    ];
    // The node's memory keeps the label that it has.
    for path in shared
        .into_iter()
        .filter(|path| *path != Path::new(super::NODES_SHM))
    {
        selinux::label_at(path, &label).map_err(|source| Error::Label {
            id: id.to_owned(),
            label: label.clone(),
            path: path.clone(),
            source,
        })?;
    }
    Ok(())
}

/// A label whose level is its lowest sensitivity alone.
fn without_categories(label: &str) -> String {
    let mut parts: Vec<_> = label.splitn(4, ':').collect();
    if let Some(level) = parts.get_mut(3) {
        *level = level.split([':', '-']).next().unwrap_or_default();
    }
    parts.join(":")
}

/// The policy's label of a container's process.
fn policys(policies: &Path) -> Result<String, String> {
    let config = read(policies.join("config"))?;
    let policy = value(&config, "SELINUXTYPE").ok_or("the configuration names no policy")?;
    let contexts = policies.join(policy).join("contexts/lxc_contexts");
    let text = read(contexts.clone())?;
    let label = value(&text, "process").map(|label| label.trim_matches('"').to_owned());
    label.ok_or_else(|| format!("{} has no label of a process", contexts.display()))
}

fn read(path: PathBuf) -> Result<String, String> {
    fs::read_to_string(&path).map_err(|error| {
        let name = duet_linux::kernel::errno_name(&error);
        format!(
            "the policy's part of it is not known: {}: {name}",
            path.display()
        )
    })
}

/// What stands behind `key =` in a line of its own.
fn value<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        (name.trim() == key).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(parts: [&str; 4]) -> SelinuxLabel {
        let [user, role, r#type, level] = parts.map(str::to_owned);
        SelinuxLabel {
            user,
            role,
            r#type,
            level,
        }
    }

    #[test]
    fn what_is_left_out_is_the_policys() {
        let dir = tempfile::tempdir().unwrap();
        let contexts = dir.path().join("targeted/contexts");
        fs::create_dir_all(&contexts).unwrap();
        fs::write(
            dir.path().join("config"),
            "# a comment\nSELINUX=enforcing\nSELINUXTYPE=targeted\n",
        )
        .unwrap();
        fs::write(
            contexts.join("lxc_contexts"),
            "process = \"system_u:system_r:container_t:s0:c0.c1023\"\nfile = \"x\"\n",
        )
        .unwrap();
        for (parts, whole) in [
            (["", "", "spc_t", ""], "system_u:system_r:spc_t:s0:c0.c1023"),
            (
                ["", "", "", "s0:c1,c2"],
                "system_u:system_r:container_t:s0:c1,c2",
            ),
            (["u", "r", "t", "s0"], "u:r:t:s0"),
        ] {
            assert_eq!(label(parts).completed(dir.path()).unwrap(), whole);
        }
    }

    #[test]
    fn what_a_pod_shares_has_no_categories() {
        for (label, theirs) in [
            ("u:r:t:s0:c1,c2", "u:r:t:s0"),
            ("u:r:t:s0-s3:c0.c1023", "u:r:t:s0"),
            ("u:r:t:s0", "u:r:t:s0"),
            // A policy without levels.
            ("u:r:t", "u:r:t"),
        ] {
            assert_eq!(without_categories(label), theirs);
        }
    }

    #[test]
    fn a_policy_that_cannot_be_read_is_named() {
        let nowhere = Path::new("/nonexistent");
        let error = label(["", "", "spc_t", ""]).completed(nowhere).unwrap_err();
        assert_eq!(
            error.to_string(),
            "PodSandboxConfig.linux.security_context.selinux_options \"::spc_t:\": \
             the policy's part of it is not known: /nonexistent/config: ENOENT"
        );
    }

    #[test]
    fn a_pod_that_asks_for_nothing_has_no_label_of_its_own() {
        assert_eq!(SelinuxLabel::default().whole().unwrap(), None);
    }
}
