//! `uidMappings` and `gidMappings`: which ids of the host stand for those of a container.

use crate::{Error, Process, User, document::Document};
use oci_spec::runtime::LinuxIdMapping;

/// How many ranges one mapping may have: the kernel's `UID_GID_MAP_MAX_EXTENTS`.
const MAX: usize = 340;

/// A range of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// The first id as the container sees it.
    pub container: u32,
    /// The first id as the host sees it.
    pub host: u32,
    /// How many ids, at least one.
    pub size: u32,
}

/// The ids of a user namespace, or of an id-mapped mount; either none of both or some of both.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IdMappings {
    /// Of users.
    pub uids: Vec<IdRange>,
    /// Of groups.
    pub gids: Vec<IdRange>,
}

// === impl IdMappings ===

impl IdMappings {
    /// Reads the two lists that stand below `prefix`.
    pub(crate) fn read(
        document: Document<'_>,
        prefix: &str,
        uids: &[LinuxIdMapping],
        gids: &[LinuxIdMapping],
    ) -> Result<Self, Error> {
        let (uid_field, gid_field) = (
            format!("{prefix}uidMappings"),
            format!("{prefix}gidMappings"),
        );
        let mappings = Self {
            uids: ranges(document, &uid_field, uids)?,
            gids: ranges(document, &gid_field, gids)?,
        };
        match (mappings.uids.is_empty(), mappings.gids.is_empty()) {
            (false, true) => Err(document.missing(&gid_field)),
            (true, false) => Err(document.missing(&uid_field)),
            (true, true) | (false, false) => Ok(mappings),
        }
    }

    /// Refuses a process whose ids are not there: `setresuid(2)` would, with a bare EINVAL.
    pub(crate) fn check(&self, document: Document<'_>, process: &Process) -> Result<(), Error> {
        let why = "is not mapped";
        if self.host_uid(0).is_none() {
            return Err(document.value("linux.uidMappings", "0", why));
        }
        if self.host_gid(0).is_none() {
            return Err(document.value("linux.gidMappings", "0", why));
        }
        match self.unmapped(&process.user) {
            None => Ok(()),
            Some((field, id)) => {
                Err(document.value(&format!("process.user.{field}"), &id.to_string(), why))
            }
        }
    }

    /// The field of a user that names an id which is not mapped, and the id.
    #[must_use]
    pub fn unmapped(&self, user: &User) -> Option<(&'static str, u32)> {
        if self.is_empty() {
            return None;
        }
        let uid = self.host_uid(user.uid).is_none();
        let gid = self.host_gid(user.gid).is_none();
        let mut groups = user.additional_gids.iter();
        let group = groups.find(|gid| self.host_gid(**gid).is_none());
        uid.then_some(("uid", user.uid))
            .or(gid.then_some(("gid", user.gid)))
            .or(group.map(|gid| ("additionalGids", *gid)))
    }

    /// Whether nothing is mapped, which means that nothing was asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.uids.is_empty()
    }

    /// The host's number of a user of the container.
    #[must_use]
    pub fn host_uid(&self, uid: u32) -> Option<u32> {
        host(&self.uids, uid)
    }

    /// The host's number of a group of the container.
    #[must_use]
    pub fn host_gid(&self, gid: u32) -> Option<u32> {
        host(&self.gids, gid)
    }
}

fn host(ranges: &[IdRange], id: u32) -> Option<u32> {
    ranges.iter().find_map(|range| {
        let offset = id.checked_sub(range.container)?;
        (offset < range.size).then(|| range.host.checked_add(offset))?
    })
}

/// The ranges of one list, in its order. The kernel would refuse the same ones with a bare EINVAL.
fn ranges(
    document: Document<'_>,
    field: &str,
    list: &[LinuxIdMapping],
) -> Result<Vec<IdRange>, Error> {
    if list.len() > MAX {
        let value = list.len().to_string();
        return Err(document.value(field, &value, "has more than the kernel's 340 ranges"));
    }
    let mut ranges: Vec<IdRange> = Vec::with_capacity(list.len());
    for (index, written) in list.iter().enumerate() {
        let range = IdRange {
            container: written.container_id(),
            host: written.host_id(),
            size: written.size(),
        };
        let refuse = |why| {
            let value = format!("{}:{}:{}", range.container, range.host, range.size);
            Err(document.value(&format!("{field}[{index}]"), &value, why))
        };
        if range.size == 0 {
            return refuse("has no ids");
        }
        // The last number is no id: it means "leave it" to chown(2) and its kin.
        let fits = |first: u32| first.checked_add(range.size).is_some();
        if !fits(range.container) || !fits(range.host) {
            return refuse("goes beyond the last id");
        }
        let meets = |a: u32, other: u32, size: u32| {
            a < other.saturating_add(size) && other < a.saturating_add(range.size)
        };
        if ranges.iter().any(|other| {
            meets(range.container, other.container, other.size)
                || meets(range.host, other.host, other.size)
        }) {
            return refuse("overlaps an earlier range");
        }
        ranges.push(range);
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_in_the_range_that_has_them() {
        let range = |container, host, size| IdRange {
            container,
            host,
            size,
        };
        let mappings = IdMappings {
            uids: vec![range(0, 100_000, 10), range(10, 500, 1)],
            gids: vec![range(0, 200_000, 1)],
        };
        assert_eq!(mappings.host_uid(0), Some(100_000));
        assert_eq!(mappings.host_uid(9), Some(100_009));
        assert_eq!(mappings.host_uid(10), Some(500));
        assert_eq!(mappings.host_uid(11), None);
        assert_eq!(mappings.host_gid(1), None);
    }
}
